"""Tables over runs."""
