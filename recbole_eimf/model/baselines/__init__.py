"""What the frameworks are compared with."""
