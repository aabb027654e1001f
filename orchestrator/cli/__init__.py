"""The command line: one file for each command, and what commands share.

Heavy imports live inside the commands, so that `--help` answers at once.
"""
