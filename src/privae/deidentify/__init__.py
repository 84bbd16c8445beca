"""De-identification of whole tables, texts and images before training: what looks like an identifier, what is done, what it measures."""
