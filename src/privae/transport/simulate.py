"""All places of a study in one process: the same code and the same messages, without a network."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from privae import files
from privae.ckks import summation
from privae.custody.keys import signing_key
from privae.data.schema import Schema
from privae.data.values import column_of
from privae.errors import UsageError
from privae.federated import EVALUATED
from privae.federated.coordinator import Coordinator
from privae.federated.policy import Own, Records, SitePolicy
from privae.federated.site import Site
from privae.federated.study import Study, Terms
from privae.plan import Plan
from privae.training.watch import Watch

Post = Callable[[str, bytes], bytes | None]
"""Carries a message to a site and brings its answer, or None."""


@dataclass(frozen=True)
class Simulated:
    """A study whose places are all here."""

    study: Study
    coordinator: Coordinator
    sites: Mapping[str, Site]


def assemble(
    terms: Terms, parts: Mapping[str, Records], folder: Path | None = None, watch: Watch | None = None
) -> Simulated:
    """The places of a study, with keys made for it, each with its part of the records.

    folder: where the model and the ledger go; None keeps them in memory. Errors: UsageError, PrivacyRefused.
    """
    plan = terms.plan_of()
    with tempfile.TemporaryDirectory() as scratch:
        made = {name: signing_key(Path(scratch) / name) for name in (*terms.sites, "the coordinator")}
    publics = {name: key.public for name, key in made.items()}
    shared = os.urandom(summation.KEY) if terms.sum == "encrypted" else b""
    terms = terms.model_copy(update={"consortium": summation.name_of(shared)}) if shared else terms
    study = terms.study(publics, publics["the coordinator"])
    policy = _policy(study, plan)
    records = {name: partial(parts.__getitem__, name) for name in study.sites}
    sites = {
        name: Site(Own(study, policy, made[name], records[name], files.Shelf(), consortium=shared))
        for name in study.sites
    }
    state, results, content = files.Shelf(), files.Shelf(folder), terms.evaluated()
    if content is not None:
        state.put(EVALUATED, content)
    return Simulated(study, Coordinator(study, plan, made["the coordinator"], state, results, watch), sites)


def run(coordinator: Coordinator, post: Post) -> None:
    """Drive a coordinator to its end. Errors: those of `Coordinator.take`."""
    while not coordinator.done:
        found = {name: post(name, message) for name, message in coordinator.outbox().items()}
        coordinator.take({name: answer for name, answer in found.items() if answer is not None})


def simulate(
    terms: Terms, parts: Mapping[str, Records], folder: Path | None = None, watch: Watch | None = None
) -> Simulated:
    """Fit a study in one process, from its terms and each site's records."""
    made = assemble(terms, parts, folder, watch)
    run(made.coordinator, lambda name, message: made.sites[name].answer(message))
    return made


def parted(records: Records, names: tuple[str, ...], split: str, schema: Any) -> dict[str, Records]:  # noqa: ANN401
    """The records of each site. split: "even", "label", "site", or a column whose sorted values are dealt out.

    "site" and a column: a record goes to the site that its cell names; if the cells are other words, the distinct
    ones are dealt to the sites in turn, sorted. "label" does so by the label. "even" deals the records in turn.
    Errors: UsageError for a column that is not there.
    """
    x, y = records
    even = split == "even"
    places = np.arange(len(x)) % len(names) if even else _dealt(_cells(x, y, split, schema), names)
    chosen = [np.flatnonzero(places == index) for index in range(len(names))]
    kept = [c.name for c in schema.kept] if isinstance(schema, Schema) else None
    return {name: _rows(x, y, rows, kept) for name, rows in zip(names, chosen, strict=True)}


def _cells(x: Any, y: Any, split: str, schema: Any) -> pd.Series:  # noqa: ANN401
    column = schema.label if split == "label" and isinstance(schema, Schema) else split
    if isinstance(x, pd.DataFrame):
        if column not in x.columns:
            raise UsageError(
                f'there is no column "{column}" to split by; use --split even, label or a column'
            )
        return column_of(x[column])
    if split != "label" or y is None:
        raise UsageError("images are split evenly, or by their labels: --split even or label")
    return column_of(y)


def _dealt(cells: pd.Series, names: tuple[str, ...]) -> Any:  # noqa: ANN401
    texts = cells.astype(str)
    words = sorted(set(texts))
    if set(words) <= set(names):
        return texts.map({name: place for place, name in enumerate(names)}).to_numpy()
    per = -(-len(words) // len(names))
    return texts.map({word: place // per for place, word in enumerate(words)}).to_numpy()


def _rows(x: Any, y: Any, rows: Any, kept: list[str] | None) -> Records:  # noqa: ANN401
    if isinstance(x, pd.DataFrame):
        return x.iloc[rows][kept].reset_index(drop=True), None
    return x[rows], None if y is None else y[rows]


def _policy(study: Study, plan: Plan) -> SitePolicy:
    """What sites that agreed to this very study let happen."""
    return SitePolicy(
        data="",
        max_epsilon=plan.epsilon,
        delta=plan.delta,
        min_sites=study.min_sites,
        require_masking=study.masking,
        allow_share=("all", "decoder"),
        consortium="held in memory" if study.encrypted else "",
    )
