"""Users into clusters with a typical user each."""
