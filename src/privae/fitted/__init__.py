"""Fitted models together with the public schemas that their records are read by: data in, and out."""
