"""Files of weights: where they are, what is in them, how they get here. No code in them is run."""
