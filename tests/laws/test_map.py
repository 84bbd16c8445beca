"""Law: docs/map.md answers "where is ...?" by a plain text search for the noun of the question."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

QUESTIONS = [
    ("secret coins", "privacy/noise.py"),
    ("Gaussian integers", "privacy/noise.py"),
    ("AES-256", "privacy/noise.py"),
    ("clipping", "privacy/clipping.py"),
    ("per-record gradients", "privacy/gradients.py"),
    ("backward pass", "privacy/gradients.py"),
    ("grid", "privacy/mechanism.py"),
    ("the way out", "privacy/mechanism.py"),
    ("dp_accounting", "privacy/accountant.py"),
    ("hash-chained", "privacy/ledger.py"),
    ("what was spent", "privacy/ledger.py"),
    ("who takes part", "privacy/sampling.py"),
    ("not covered", "privacy/guarantee.py"),
    ("evidence lower bound", "models/latent.py"),
    ("likelihoods", "models/likelihoods.py"),
    ("class-conditional Gaussians", "models/priors.py"),
    ("multilayer perceptrons", "models/networks.py"),
    ("residual decoder", "models/image.py"),
    ("training loop", "training/loop.py"),
    ("Chow-Liu tree", "sums/tree.py"),
    ("mixture", "sums/mixture.py"),
    ("two-way tables", "recipes/table.py"),
    ("moments", "sums/moments.py"),
    ("warm start", "recipes/gradients.py"),
    ("phases", "recipes/phases.py"),
    ("from records to codes", "data/codec.py"),
    ("categories", "data/schema.py"),
    ("CSV", "data/tables.py"),
    ("npz", "data/images.py"),
    ("digits", "data/examples.py"),
    ("error", "errors.py"),
    ("atomic", "files.py"),
    ("every public choice", "plan.py"),
    ("front door", "vae.py"),
    ("command line", "cli/"),
]


def script():
    spec = importlib.util.spec_from_file_location("map_script", ROOT / "scripts" / "map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hits(noun: str) -> list[str]:
    """Files whose line on the map has every word of the noun."""
    lines = [line.strip() for line in (ROOT / "docs" / "map.md").read_text(encoding="utf-8").splitlines()]
    entries = [line.split("`") for line in lines if line.startswith("- `")]
    words = noun.lower().split()
    return [entry[1] for entry in entries if all(word in "`".join(entry[1:]).lower() for word in words)]


@pytest.mark.parametrize(("noun", "file"), QUESTIONS, ids=[noun for noun, _ in QUESTIONS])
def test_a_search_for_the_noun_finds_the_file_among_the_first_three(noun, file):
    assert any(found.startswith(file) for found in hits(noun)[:3])


def test_the_map_is_fresh():
    module = script()
    assert module.MAP.read_text(encoding="utf-8") == module.render(), "run: python scripts/map.py"


def test_every_module_is_on_the_map():
    module = script()
    listed = module.MAP.read_text(encoding="utf-8")
    modules = [path for path in module.SOURCE.rglob("*.py") if path.parent == module.SOURCE]
    modules += [path for path in module.SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert all(f"`{path.relative_to(module.SOURCE).as_posix()}`" in listed for path in modules)
