"""Backbones: user histories to interest vectors."""
