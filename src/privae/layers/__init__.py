"""Layers: how a record's gradient follows from a layer's input and the gradient at its output.

This floor knows nothing of privacy: it forms norms and weighted sums of per-record gradients, and says when it
cannot.
"""
