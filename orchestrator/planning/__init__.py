"""Plans of sweeps: checks trials, estimates costs and identifies trials before a sweep starts."""
