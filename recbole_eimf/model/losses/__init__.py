"""Losses, and how their negatives and labels are drawn."""
