"""From records and an encoder to an adapter: the loop, its objective, and what they cost."""
