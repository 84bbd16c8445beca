"""Models computed on ciphertexts: circuits, their two packings, scoring for a key holder, statistics, a service."""
