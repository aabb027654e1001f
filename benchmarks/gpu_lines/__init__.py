"""The lines of `gpu_check.py`: each measures one thing, and says within which bounds it must lie."""
