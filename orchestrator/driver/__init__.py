"""Runs one sweep: places trials, retries them, resumes them, and opens the test labels at the end."""
