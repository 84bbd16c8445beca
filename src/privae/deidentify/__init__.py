"""De-identification of tables, texts and images before training: what looks like an identifier, what is done."""
