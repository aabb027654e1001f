"""The command line: one file for each command, and the code that commands share.

Heavy imports live inside the commands, so that `--help` answers at once.
"""
