"""Continual release: one stream of noisy sums over a fleet of homes or devices, charged once, a step at a time."""
