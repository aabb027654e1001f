"""The command line: one file for each command, and the code that commands share.

Heavy imports are inside the commands, so that `--help` answers at once.
"""
