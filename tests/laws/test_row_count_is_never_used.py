"""Law: nothing but the releases depends on how many records there are (rule 15).

Each fit is run twice: on data of n records, and on other data of another n, answered with the releases of the
first. Plan, charges, noise, all that the watcher is told, the model and its samples must then be the same.
"""

import math

import pandas as pd
import pytest

from privae import VAE, Training
from privae.plan import Phase
from privae.training.loop import Schedule

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(4,), steps=3, batch=30)

CASES = [
    ({"epsilon": 3.0}, "table"),
    ({"epsilon": 3.0, "rows": 3000}, "table"),
    ({"epsilon": 3.0, "rows": 30, "recipe": "gradients", "training": SMALL}, "table"),
    ({"epsilon": 3.0, "recipe": "detection"}, "table without a label"),
    ({"epsilon": 3.0, "classes": 2, "fidelity": False}, "image"),
    ({"epsilon": 3.0, "classes": 2, "rows": 30, "recipe": "gradients", "training": SMALL}, "image"),
    ({"epsilon": 3.0, "rows": 3000}, "ratings"),
    ({"epsilon": 3.0}, "ratings"),
]


def told(result):
    """Everything that left a fit, in comparable form."""
    vae = result["vae"]
    made = vae.sample(seed=0)
    table = isinstance(made, pd.DataFrame)
    return {
        "plan": vae.plan_.dumps(),
        "hash": vae.plan_.hash,
        "ledger": [(e.phase, e.event, e.epsilon, e.delta) for e in vae.ledger.entries],
        "told": result["told"],
        "guarantee": str(vae.guarantee),
        "repr": repr(vae),
        "state": {name: value.tolist() for name, value in vae.fitted_.model.state().items()},
        "sample": made.to_csv() if table else made[0].tolist(),
        "kept": sorted(name for name in vars(vae) if name.endswith("_")),
    }


@pytest.mark.parametrize(("options", "kind"), CASES)
def test_all_but_the_releases_is_the_same_for_any_data_of_any_size(
    transcript, people, pictures, plays, facts, options, kind
):
    if kind == "ratings":
        data = [(plays(n, seed),) for n, seed in ((3000, 0), (777, 1), (0, 2))]
        more = {"schema": plays.schema}
    elif kind.startswith("table"):
        facts = facts.model_copy(update={"label": None}) if kind == "table without a label" else facts
        data = [(people(n, seed),) for n, seed in ((3000, 0), (777, 1), (0, 2))]
        more = {"schema": facts}
    else:
        data, more = [pictures(n, seed) for n, seed in ((3000, 0), (777, 1), (0, 2))], {}
    first = transcript(VAE(**options), *data[0], **more)
    assert first["outcome"] == "fitted"
    for other in data[1:]:
        again = transcript(VAE(**options), *other, replay=first["released"], **more)
        assert again["outcome"] == "fitted"
        assert told(again) == told(first)


def test_the_law_sees_what_a_leaky_fit_would_take(transcript, people, facts, monkeypatch):
    """The same comparison catches a fit that tells the watcher its number of rows."""
    from privae.recipes import table

    real = table.counted

    def leaky(run, codes, codec):
        run.watch.note(f"{len(codes)} rows")
        return real(run, codes, codec)

    monkeypatch.setattr(table, "counted", leaky)
    first = transcript(VAE(3.0), people(3000), schema=facts)
    again = transcript(VAE(3.0), people(777), schema=facts, replay=first["released"])
    assert first["told"] != again["told"]


@pytest.mark.parametrize("count", [40, 400])
def test_rate_steps_and_divisor_are_the_declared_ones(people, facts, monkeypatch, count):
    seen = []
    real = Schedule.__post_init__
    monkeypatch.setattr(Schedule, "__post_init__", lambda self: (seen.append(self), real(self))[1])
    vae = VAE(math.inf, rows=100, recipe="gradients", training=SMALL).fit(people(count), schema=facts)
    (schedule,) = [s for s in seen if s.steps == 3]
    assert (schedule.steps, schedule.expected_batch_size) == (3, pytest.approx(30))
    phase = vae.plan_.phases[-1]
    assert isinstance(phase, Phase)
    assert phase.sampling_rate == 0.3


def test_the_default_size_of_a_sample_is_the_declared_one(people, facts):
    assert len(VAE(3.0, rows=321).fit(people(2500), schema=facts).sample(seed=0)) == 321
    assert len(VAE(3.0).fit(people(2500), schema=facts).sample(seed=0)) == 1000


def test_neither_the_object_nor_its_guarantee_prints_the_number_of_records(people, facts, tmp_path):
    vae = VAE(3.0, rows=3000).fit(people(2719), schema=facts)
    vae.save(tmp_path / "a.privae")
    shown = [repr(vae), str(vae.guarantee), repr(vae.guarantee), vae.plan_.dumps(), vae.ledger.dumps()]
    assert not any("2719" in text for text in shown)
    for value in vae.fitted_.model.state().values():
        assert not (value == 2719).any()
        assert 2719 not in value.shape
