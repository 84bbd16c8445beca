"""Recipes: each modality's list of phases, from the first released statistic to a fitted model."""
