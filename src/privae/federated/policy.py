"""What a site brings, and what it lets happen, whatever a study asks for: its site.toml, keys, ledger and records."""

import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field, field_validator

from privae import files
from privae.ckks.summation import KEY
from privae.custody.keys import SigningKey
from privae.data.images import ImageSchema, read_images
from privae.data.schema import Schema
from privae.data.tables import read_table
from privae.deidentify.table import check_declared, check_learned
from privae.errors import PrivacyRefused, UsageError
from privae.federated.study import FROZEN, Share, Study
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.training.books import whole_plan

Records = tuple[Any, Any]
_LOG = logging.getLogger("privae.federated")


class SitePolicy(BaseModel):
    """What a site lets happen, whatever a study asks for: its own site.toml. It may only narrow.

    data: path of its records. ledger: of all studies of these records, a file that may lie outside this kit. columns:
    the study's name of a column -> its name here. max_epsilon, delta: the cap of that ledger (inf: no
    cap, and no ledger). min_sites: fewest sites
    in a sum. require_masking: refuse sums in which this site is seen by itself. allow_share: what gradients may train.
    consortium: the file of the key that sites share where sums are formed on ciphertexts; none agrees to no such study.
    identifier_ok: columns, by the study's names, that look like identifiers to this site, and are none.
    """

    model_config = FROZEN

    data: str
    ledger: str = "privae/data.ledger"
    max_epsilon: float = Field(gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    min_sites: int = Field(default=3, ge=2)
    require_masking: bool = True
    allow_share: tuple[Share, ...] = ("decoder",)
    columns: dict[str, str] = Field(default_factory=dict)
    consortium: str = ""
    identifier_ok: tuple[str, ...] = ()

    @field_validator("ledger")
    @classmethod
    def _in_a_file(cls, ledger: str) -> str:
        if "://" in ledger:
            raise ValueError("the ledger of a site is a file on its own machine")
        return ledger

    @classmethod
    def loads(cls, text: str) -> "SitePolicy":
        """The policy in a TOML text. Errors: UsageError."""
        return files.validated(cls, text, "site.toml")

    @classmethod
    def load(cls, path: Path) -> "SitePolicy":
        """The policy in a TOML file."""
        return cls.loads(files.text_in(path))

    def check(self, study: Study, plan: Plan) -> None:
        """Refuse, before anything is computed, what this site does not let happen. Errors: PrivacyRefused."""
        if plan.epsilon > self.max_epsilon:
            raise PrivacyRefused(
                f"epsilon {plan.epsilon:g} is above this site's max_epsilon {self.max_epsilon:g}"
            )
        if study.min_sites < self.min_sites:
            raise PrivacyRefused(
                f"sums of {study.min_sites} sites are below this site's min_sites {self.min_sites}"
            )
        if self.require_masking and not study.masking:
            raise PrivacyRefused("the study sums without masks, and this site has require_masking = true")
        if study.encrypted and not self.consortium:
            # privacy: it rests on no site giving the coordinator the key that all share; masks rest on less
            raise PrivacyRefused(
                "the study sums on ciphertexts; to agree, name the sites' key as consortium in this site's site.toml"
            )
        gradients = any(phase.kind == "gradients" for phase in plan.phases)
        if gradients and study.share not in self.allow_share:
            raise PrivacyRefused(f'share = "{study.share}" is not in this site\'s allow_share')
        if math.isfinite(plan.epsilon) and plan.delta > self.delta:
            raise PrivacyRefused(f"delta {plan.delta:g} is above this site's delta {self.delta:g}")


@dataclass(frozen=True)
class Own:
    """What a site brings: the study it agreed to, its policy and key, its records, and where its state is kept.

    records: reads (x, y) as the schema says. ledger: of its data, over all studies; None keeps none (simulation).
    consortium: the key that the sites share, where sums are formed on ciphertexts.
    """

    study: Study
    policy: SitePolicy
    key: SigningKey = field(repr=False)
    records: Callable[[], Records] = field(repr=False)
    shelf: files.Shelf = field(repr=False)
    ledger: Path | None = None
    consortium: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """This site's name: that of its key in the roster. Errors: UsageError."""
        for name, public in self.study.sites.items():
            if public == self.key.public:
                return name
        raise UsageError(
            "this site's key is not in the study's roster; send its public key to the coordinator"
        )


def reserve(
    path: Path | None, policy: SitePolicy, whose: tuple[Study, str], plan: Plan, *, began: bool
) -> None:
    """Spend the whole plan from the ledger of this site's data, once a study, on disk before anything is answered.

    began: whether this site has the secret that its noise of this study follows from; who lost it spends again.
    Errors: PrivacyRefused past the policy's cap; ArtifactError for a ledger that was changed.
    """
    if path is None or math.isinf(policy.max_epsilon):
        return
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Ledger.open(path, policy.max_epsilon, policy.delta)
    ledger = Ledger.load(path)
    assert ledger.cap is not None
    if ledger.cap.epsilon > policy.max_epsilon or ledger.delta > policy.delta:
        raise PrivacyRefused(
            "this site's ledger has a higher cap than its site.toml; raise that, or open a new one"
        )
    study, name = whose
    # privacy: the charge bears the study's name, so that no other study's, or attempt's, is taken for it
    bound = files.digest([plan.hash, study.hash, name])
    if began and any(entry.plan_hash == bound for entry in ledger.entries):
        return
    try:
        ledger.spend([replace(charge, plan_hash=bound) for charge in whole_plan(plan, ledger.cap.epsilon)])
    except PrivacyRefused as error:
        _LOG.warning("%s: %s", name, error)  # what is left tells of other studies
        raise PrivacyRefused(
            "the plan is above what this site's ledger has left; its own log says more"
        ) from None


def records_of(policy: SitePolicy, schema: Schema | ImageSchema, folder: Path) -> Records:
    """The records that a policy names, in the form of the schema: (DataFrame, None), or (images, labels).

    Errors: UsageError for a column that is not there, by its name in the study: the coordinator may know. DataError;
        PrivacyRefused where a learned column names people.
    """
    path = folder / policy.data
    if isinstance(schema, ImageSchema):
        return read_images(path)
    frame = read_table(path)
    names = [column.name for column in schema.kept]
    for name in names:
        if policy.columns.get(name, name) not in frame.columns:
            raise UsageError(
                f"this site's table has no column for '{name}'; map it in its site.toml, [columns]"
            )
    chosen = frame[[policy.columns.get(name, name) for name in names]].set_axis(names, axis=1)
    _check_cells(chosen, schema, policy)
    return chosen, None


def _check_cells(frame: pd.DataFrame, schema: Schema, policy: SitePolicy) -> None:
    """Refuse records one of whose learned columns names people; what that is, is for this site's own log alone."""
    check_declared(schema, policy.identifier_ok)  # public facts of the study: the coordinator may know
    try:
        check_learned(frame, schema, policy.identifier_ok)
    except PrivacyRefused as error:
        # privacy: it tells of cells, and the coordinator is to read that this site refused, and no more (rule 21)
        _LOG.warning("%s", error)
        raise PrivacyRefused("this site refuses; its own log says why") from None


def consortium_key(path: Path, *, make: bool = False) -> bytes:
    """The key that the sites of a study share, and the coordinator never has; with `make` a fresh one is written.

    Errors: UsageError for a file that is not there, that others may read, or that holds none.
    """
    if make:
        files.write_secretly(path, os.urandom(KEY).hex().encode() + b"\n", sealed=False)
    text = files.text_in(path).strip()
    if path.stat().st_mode & 0o077:
        raise UsageError(f"others may read {path.name}; close it: chmod 600")
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY}}}", text):
        raise UsageError(f"{path.name} holds no key of a consortium; ask the site that made it")
    return bytes.fromhex(text)
