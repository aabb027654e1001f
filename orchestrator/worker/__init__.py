"""Runs one trial on its node, in one process or with several workers of Ray Train."""
