"""What is tried: search spaces, their parameters and constraints, and which trial comes next."""
