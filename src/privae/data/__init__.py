"""Data: public schemas, codecs between records and tensors, and the files that records live in."""
