"""Records of benchmarks/federated.py, and studies on them: four hospitals, two digits a site, census rows in turn."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import tomli_w
from harness import SHARED

from privae import VAE
from privae.data.column import Column
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.federated import site as sites
from privae.federated.study import Terms
from privae.plan import Plan
from privae.privacy.noise import NoiseSource
from privae.transport import simulate

Records = tuple[Any, Any]
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
FIVE = ("ares", "bion", "ceto", "doris", "eris")
DELTA = 1e-5
KEY = bytes(range(32))
_CODED = {
    "sex": (0, 1),
    "cp": (1, 2, 3, 4),
    "fbs": (0, 1),
    "restecg": (0, 1, 2),
    "exang": (0, 1),
    "slope": (1, 2, 3),
    "ca": (0, 1, 2, 3, 9),
    "thal": (3, 6, 7),
}
_MEASURED = {  # what the columns may hold by their meaning; 0 stands for "not measured" at one site
    "age": (20, 90, 7),
    "trestbps": (0, 240, 12),
    "chol": (0, 650, 13),
    "thalach": (50, 230, 9),
    "oldpeak": (-3, 7, 10),
}


def heart() -> tuple[pd.DataFrame, Schema]:
    """920 patients of four hospitals with their column `site`, and a declared schema that does not have it."""
    frame = pd.read_parquet(SHARED / "heart_disease_4sites.parquet")
    made = {name: frame[name].round().astype("Int64") for name in _CODED}
    measured = {name: frame[name].astype(float) for name in _MEASURED}
    table = pd.DataFrame({**measured, **made, "disease": frame["num"] > 0, "site": frame["site"].astype(str)})
    columns = [
        *(
            Column(name=n, kind="numeric", bounds=(low, high), bins=bins, missing=n != "age")
            for n, (low, high, bins) in _MEASURED.items()
        ),
        *(
            Column(name=n, kind="category", categories=known, missing=n not in ("sex", "cp"))
            for n, known in _CODED.items()
        ),
        Column(name="disease", kind="boolean"),
    ]
    return table, Schema(columns=tuple(columns), label="disease")


def mnist(count: int = 60_000, test: bool = False) -> Records:
    """The first images of MNIST and their labels as texts."""
    with np.load(SHARED / "mnist.npz") as file:
        x, y = (file[f"{name}_{'test' if test else 'train'}"] for name in "xy")
    return x[:count], y[:count].astype(str).astype(object)


def image_schema(classes: int | None = 10, size: int = 28) -> ImageSchema:
    """Images of digits, with the labels "0", "1", ... or without."""
    if classes is None:
        return ImageSchema(height=size, width=size)
    return ImageSchema.with_class_count(size, size, classes)


def terms_of(folder: Path, plan: Plan, schema: Any, names: tuple[str, ...], **study: Any) -> Terms:
    """A study's files in a folder, as a person would write them."""
    folder.mkdir(parents=True, exist_ok=True)
    plan.save(folder / "plan.toml")
    if isinstance(schema, Schema):
        schema.save(folder / "schema.toml")
    else:
        fields = {k: v for k, v in schema.model_dump(mode="json").items() if v is not None}
        (folder / "schema.toml").write_text(tomli_w.dumps(fields))
    head = {"name": "benchmark", "plan": "plan.toml", "schema": "schema.toml", "colluders": 0, "min_sites": 2}
    text = tomli_w.dumps({**head, **study, "sites": dict.fromkeys(names, "")})
    (folder / "study.toml").write_text(text)
    return Terms.load(folder / "study.toml")


def assembled(
    plan: Plan, schema: Any, records: Records, split: str, names: tuple[str, ...], **study: Any
) -> Any:
    """The places of a study in this process, before its first message."""
    with tempfile.TemporaryDirectory() as folder:
        terms = terms_of(Path(folder), plan, schema, names, **study)
        return simulate.assemble(terms, simulate.parted(records, names, split, schema))


def driven(made: Any) -> VAE:
    """The study run to its end, and its model as anybody would load it."""
    simulate.run(made.coordinator, lambda name, message: made.sites[name].answer(message))
    return loaded(made.coordinator.model)


def loaded(model: bytes) -> VAE:
    """The model in the bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.privae"
        path.write_bytes(model)
        return VAE.load(path)


@contextmanager
def noise_of_one(count: int) -> Iterator[None]:
    """One of `count` sites adds the noise that a central fit with NoiseSource(KEY) draws, and the others none."""
    source, turns = NoiseSource(KEY), itertools.count()

    def drawn(ask: Any, *_: Any) -> Any:
        scales = np.repeat([wire.scale for wire in ask.wires], [wire.count for wire in ask.wires])
        noise = [np.zeros(wire.count, np.int64) for wire in ask.wires]
        if next(turns) % count == 0:
            noise = [source.gaussian_integers(wire.count, wire.std / wire.scale) for wire in ask.wires]
        return (ask.values + np.concatenate(noise)) * scales

    with patch.object(sites, "noised", drawn):
        yield


def apart(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """The largest absolute difference of two models' numbers; infinite if they have not the same names."""
    if set(found) != set(wanted):
        return float("inf")
    pairs = ((found[name].double(), wanted[name].double()) for name in wanted)
    return max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in pairs)
