"""Append-only lists of lines: where they are kept, how each names the one before, and trees over them."""
