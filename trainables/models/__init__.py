"""Dual encoders, their adapters, and the files with their weights."""
