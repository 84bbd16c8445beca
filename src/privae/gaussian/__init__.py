"""Exactly rounded Gaussian integers, from words that the privacy floor draws."""
