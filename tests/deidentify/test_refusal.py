"""A fit of a column that names people is refused before anything is spent; a site tells its coordinator no more."""

import logging
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from privae.data.schema import Schema
from privae.errors import PrivacyRefused
from privae.federated.messages import refusal
from privae.federated.policy import SitePolicy, records_of
from privae.privacy.ledger import Ledger
from privae.vae import VAE

SCHEMA = Schema.loads(
    '[columns.c]\nkind = "category"\ncategories = ["x", "y"]\nother = "z"\n[columns.b]\nkind = "boolean"\n'
)
ROWS = pd.DataFrame({"c": ["x", "ann@x.org"], "b": ["True", "False"]})


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    def identifiers(frame, names):
        return {
            name: "an e-mail address" for name in names if frame[name].astype(str).str.contains("@").any()
        }

    monkeypatch.setitem(sys.modules, "privae.deidentify.detect", SimpleNamespace(identifiers=identifiers))


def test_nothing_is_spent_before_the_refusal(tmp_path):
    book = tmp_path / "l.ledger"
    Ledger.open(book, 10.0, 1e-5)
    before = book.read_bytes()
    with pytest.raises(PrivacyRefused, match=r"column 'c' looks like .*--identifier-ok c") as caught:
        VAE(1.0, rows=100, schema=SCHEMA).fit(ROWS, ledger=book, checkpoint=tmp_path / "k")
    assert "ann" not in str(caught.value)
    assert book.read_bytes() == before
    assert not (tmp_path / "k").exists()


def test_a_site_says_that_it_refuses_and_its_own_log_says_why(tmp_path, caplog):
    ROWS.to_csv(tmp_path / "d.csv", index=False)
    policy = SitePolicy(data="d.csv", max_epsilon=1.0)
    with caplog.at_level(logging.WARNING), pytest.raises(PrivacyRefused) as caught:
        records_of(policy, SCHEMA, tmp_path)
    told = str(refusal(caught.value))
    assert "'c'" not in told
    assert "e-mail" not in told
    assert "column 'c' looks like" in caplog.text
    assert "ann" not in caplog.text
    confirmed = policy.model_copy(update={"identifier_ok": ("c",)})
    assert len(records_of(confirmed, SCHEMA, tmp_path)[0]) == 2
