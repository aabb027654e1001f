"""Runs one trial where it was placed: alone, or over the workers of Ray Train."""
