"""One file a noun. Heavy imports live inside the commands, so that `--help` answers at once."""
