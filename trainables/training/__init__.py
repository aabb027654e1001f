"""Trains an adapter from records and an encoder: the training loop, its objective, and their costs."""
