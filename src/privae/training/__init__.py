"""Training: the one loop, and the watchers of it that see released values only."""
