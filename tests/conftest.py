"""Shapes and types of the privacy core and the models are checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook(["privae.privacy", "privae.models"], "beartype.beartype")
