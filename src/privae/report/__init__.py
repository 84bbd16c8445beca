"""Report: what a person looks at after a fit."""
