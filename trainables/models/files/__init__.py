"""Finds, reads, checks and downloads files of weights. Code in these files is never run."""
