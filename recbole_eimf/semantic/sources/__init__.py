"""Where interests come from."""
