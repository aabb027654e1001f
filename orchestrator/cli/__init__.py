"""What one types: one file a command, and the consoles that they share.

Heavy imports live inside the commands, so that `--help` answers at once.
"""
