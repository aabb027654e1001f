"""Dual encoders, one file a family, and the towers and blocks that they are made of."""
