"""De-identification of tables and texts before training: what looks like an identifier, what is done to it."""
