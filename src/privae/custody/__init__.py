"""Keys, kept by whoever signs."""
