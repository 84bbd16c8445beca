"""What serves others: models over HTTP that are computed on ciphertexts, and the verbs around them."""
