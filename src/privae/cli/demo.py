"""Two demonstrations on packaged public data: what a fit gives, and how good it is.

The data are public, so real may stand beside synthetic here, and quality may be measured on real records that were
not fitted; with private data both would be for the data holder's eyes alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from privae import files
from privae.cli import telling
from privae.cli.terminal import Terminal
from privae.data.codec import Codec
from privae.data.examples import load_digits, load_table
from privae.data.images import write_images
from privae.data.tables import write_table
from privae.errors import UsageError
from privae.evaluate.utility import image_score, table_scores
from privae.report import picture
from privae.vae import VAE

_DELTA = 1e-5
_FITTED = 0.8  # of the records; the others measure
_TABLE_EPSILON, _TABLE_ROWS = 1.0, 26_000
_DIGITS_EPSILON, _DIGITS_ROWS = 3.0, 1_400
_DRAWN = (
    "age",
    "education",
    "marital_status",
    "occupation",
    "relationship",
    "hours_per_week",
    "sex",
    "income",
)


def adult(out: Terminal, folder: Path) -> None:
    """Fit UCI Adult at epsilon 1 and write adult.privae, synthetic.csv, held-out.csv and a picture."""
    _prepare(folder)
    with out.progress("reading UCI Adult (packaged, public)") as watch:
        frame, schema = load_table()
        fitted, held_out = _split(len(frame), frame)
        model = VAE(_TABLE_EPSILON, _DELTA, _TABLE_ROWS, schema=schema).fit(fitted, watch=watch)
        watch.phase("drawing synthetic records", 1)
        synthetic = model.sample(len(fitted))
        watch.phase("training on real and on synthetic records, testing on held-out ones", 1)
        codec = Codec(schema)
        tests = codec.encode(held_out)
        real, made = (
            table_scores(codec.encode(train), tests, codec, ("logistic",))["logistic"]
            for train in (fitted, synthetic)
        )
        watch.phase("writing", 1)
        model.save(folder / "adult.privae")
        write_table(synthetic, folder / "synthetic.csv")
        write_table(held_out, folder / "held-out.csv")
        title = f"UCI Adult: real beside synthetic (epsilon {_TABLE_EPSILON:g}, delta {_DELTA:g})"
        picture.beside(fitted, synthetic, folder / "real-beside-synthetic.png", title, _DRAWN)
    shown = synthetic.drop(
        columns=["fnlwgt", "education_num", "capital_gain", "capital_loss", "native_country"]
    )
    figure = (
        f"predicting income with a logistic regression (AUC on held-out real records): {made:.3f} if trained on "
        f"synthetic records, {real:.3f} on real ones"
    )
    rows = "a few synthetic people:\n" + shown.head(6).to_string(index=False)
    _report(out, model, folder / "adult.privae", (rows, figure), {"auc_synthetic": made, "auc_real": real})


def digits(out: Terminal, folder: Path) -> None:
    """Fit scikit-learn's digits at epsilon 3 and write digits.privae, synthetic.npz, held-out.npz and a picture."""
    _prepare(folder)
    with out.progress("reading scikit-learn's digits (public)") as watch:
        x, y, schema = load_digits()
        (fit_x, fit_y), (new_x, new_y) = ((x[part], y[part]) for part in _split(len(x), np.arange(len(x))))
        model = VAE(_DIGITS_EPSILON, _DELTA, _DIGITS_ROWS, fidelity=False).fit(
            fit_x, fit_y, schema=schema, watch=watch
        )
        watch.phase("drawing synthetic records", 1)
        made_x, made_y = model.sample(len(fit_x))
        watch.phase("training on real and on synthetic images, testing on held-out ones", 1)
        real, made = (image_score(train, (new_x, new_y)) for train in ((fit_x, fit_y), (made_x, made_y)))
        watch.phase("writing", 1)
        model.save(folder / "digits.privae")
        write_images(folder / "synthetic.npz", made_x, made_y)
        write_images(folder / "held-out.npz", new_x, new_y)
        title = f"Digits: real beside synthetic (epsilon {_DIGITS_EPSILON:g}, delta {_DELTA:g})"
        picture.beside_images((fit_x, fit_y), (made_x, made_y), folder / "real-beside-synthetic.png", title)
    figure = (
        f"telling digits with a logistic regression (accuracy on held-out real images): {made:.3f} if trained on "
        f"synthetic images, {real:.3f} on real ones"
    )
    _report(
        out,
        model,
        folder / "digits.privae",
        ("", figure),
        {"accuracy_synthetic": made, "accuracy_real": real},
    )


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder {folder} cannot be made: {(error.strerror or 'unknown reason').lower()}"
        ) from None
    files.check_writable(folder / "synthetic.csv")


def _split(count: int, records: Any) -> tuple[Any, Any]:  # noqa: ANN401  a table, or places
    """The same 80 % to fit and 20 % held out every time."""
    order = np.random.default_rng(0).permutation(count)
    cut = int(_FITTED * count)
    if isinstance(records, pd.DataFrame):
        return records.iloc[order[:cut]].reset_index(drop=True), records.iloc[order[cut:]].reset_index(
            drop=True
        )
    return records[order[:cut]], records[order[cut:]]


def _report(out: Terminal, model: VAE, path: Path, texts: tuple[str, str], figures: dict[str, float]) -> None:
    image = model.fitted_.kind == "image"
    new, made = ("held-out.npz", "more.npz") if image else ("held-out.csv", "more.csv")
    rows, figure = texts
    written = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    text = (
        (f"{rows}\n\n" if rows else "")
        + f"{model.guarantee}\n\n{figure}\n(the data are public, so real records may be shown and measured with)\n\n"
        f"wrote {path.parent}/: {', '.join(written)}\nnext:\n"
        f"  privae inspect {path}\n"
        f"  privae sample {path} -n 1000 -o {path.parent / made}\n"
        f"  privae score {path} {path.parent / new} --top 5\n"
        "  privae schema YOUR.csv -o YOUR.schema.toml"
    )
    fields = {"folder": path.parent, "files": written, "guarantee": telling.guarantee_fields(model.guarantee)}
    out.report(text, {**fields, **figures})
