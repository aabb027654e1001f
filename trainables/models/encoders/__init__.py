"""Dual encoders, one file a family, and their towers and blocks."""
