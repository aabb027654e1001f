"""Dual encoders, their adapters, and where their weights come from."""
