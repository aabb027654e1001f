"""Search spaces, their parameters and constraints, and the searchers that choose the next trial."""
