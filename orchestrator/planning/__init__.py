"""Checks and costs before anything starts: what a sweep needs, and what identifies its trials."""
