"""The entry points that a sweep, `run` and torchrun call: one file a trainable, nothing else."""
