"""The driver of a sweep: places and retries trials, resumes sweeps, and reads the test labels at the end."""
