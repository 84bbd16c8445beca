"""De-identification before training: what looks like an identifier, what is done to it, what that measures."""
