"""Hyper-parameter search on Ray Tune."""
