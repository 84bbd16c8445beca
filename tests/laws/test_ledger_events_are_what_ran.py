"""Law: the ledger says what ran: every release's noise, rate and steps, a block an entry, written before it."""

import math

import pytest

from privae import VAE, Training
from privae.errors import PrivacyRefused
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.recipes.phases import Run
from privae.training.books import charges_of, follows
from privae.training.state import block_of

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(4,), steps=12, clip_norm=0.5)


@pytest.fixture
def spied(monkeypatch):
    """What happens to one noise source, in order: ledger entries, coins, noise and releases."""
    log, source = [], NoiseSource(bytes(32))
    spend, release, bernoulli, fill = Ledger.spend, Mechanism.release, NoiseSource.bernoulli, NoiseSource.fill

    def spending(self, charges, **options):
        spend(self, charges, **options)
        log.extend(("spent", c.phase, c.event, self.place) for c in charges)

    def releasing(self, total, noise, *divisor, **options):
        if noise is source:
            log.append(("release", self, total.shape))
        return release(self, total, noise, *divisor, **options)

    def drawing(self, count, rate):
        if self is source:
            log.append(("coins", count, rate))
        return bernoulli(self, count, rate)

    def filling(self, out, std):
        if self is source:
            log.append(("noise", out.numel(), std))
        fill(self, out, std)

    monkeypatch.setattr(Ledger, "spend", spending)
    monkeypatch.setattr(Mechanism, "release", releasing)
    monkeypatch.setattr(NoiseSource, "bernoulli", drawing)
    monkeypatch.setattr(NoiseSource, "fill", filling)
    return log, source


def checked(log, vae, n):
    """Split the log at the entries and compare each part with its entry."""
    assert log[0][0] == "spent"
    starts = [place for place, item in enumerate(log) if item[0] == "spent"]
    assert [log[place][1:3] for place in starts] == charges_of(vae.ledger)
    assert follows(charges_of(vae.ledger), vae.plan_, whole=True)
    assert [vae.ledger.charged(phase.name) for phase in vae.plan_.phases] == [
        phase.steps for phase in vae.plan_.phases
    ]
    assert vae.ledger.epsilon == pytest.approx(vae.guarantee.epsilon, rel=1e-12)
    for start, end in zip(starts, [*starts[1:], len(log)], strict=True):
        phase, part = vae.plan_.phase(log[start][1]), log[start + 1 : end]
        event = log[start][2]
        mechanisms = [item[1] for item in part if item[0] == "release"]
        assert mechanisms
        for mechanism in mechanisms:
            assert mechanism.noise_multiplier == event.noise_multiplier
            assert mechanism.replace_ratio == event.replace_ratio
        noises = [item[2] for item in part if item[0] == "noise" and item[2] != 2.0**20]
        drawn = [m.std / m.grid for m in mechanisms if m.noise_multiplier]
        assert noises == drawn
        assert all(
            s * m.grid >= m.noise_multiplier * m.sensitivity()
            for s, m in zip(drawn, mechanisms, strict=False)
        )
        coins = [item[1:] for item in part if item[0] == "coins"]
        if phase.kind == "gradients":
            assert len(mechanisms) == event.steps <= block_of(phase.steps)
            assert coins == [(n, event.sampling_rate)] * event.steps
            assert all(m.sensitivity() >= phase.sensitivity for m in mechanisms)
        else:
            assert (event.steps, event.sampling_rate, coins) == (1, 1.0, [])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"epsilon": 2.0}, "table"),
        ({"epsilon": 2.0, "recipe": "detection"}, "table without a label"),
        ({"epsilon": 2.0, "rows": 2000, "recipe": "gradients", "training": SMALL}, "table"),
        ({"epsilon": 2.0}, "series"),
        ({"epsilon": 2.0, "rows": 40}, "series"),
        ({"epsilon": 2.0, "classes": 2, "fidelity": False}, "image"),
        ({"epsilon": 2.0, "fidelity": False}, "image"),
        ({"epsilon": 4.0, "classes": 2, "rows": 30, "recipe": "gradients", "training": SMALL}, "image"),
    ],
)
def test_what_ran_is_what_was_written_before(spied, people, pictures, homes, facts, options, kind):
    log, source = spied
    vae = VAE(**options)
    if kind.startswith("table"):
        facts = facts.model_copy(update={"label": None}) if kind == "table without a label" else facts
        vae.fit(people(2000), schema=facts, noise=source)
    elif kind == "series":
        vae.fit(homes(200), schema=homes.schema, noise=source)
    else:
        vae.fit(*pictures(2000), noise=source)
    checked(log, vae, 2000)


def test_bought_categories_are_an_entry_of_their_own(spied, people, facts):
    log, source = spied
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    vae = VAE(epsilon=2.0).fit(people(2000), schema=schema, noise=source)
    checked(log, vae, 2000)
    assert [entry.phase for entry in vae.ledger.entries] == ["categories", "pair tables"]
    assert vae.ledger.entries[0].event["added_delta"] == pytest.approx(1e-7, rel=1e-6)


def test_the_weighted_noise_of_every_block_is_that_of_the_phase(spied, pictures):
    log, source = spied
    vae = VAE(epsilon=2.0, classes=2, fidelity=False).fit(*pictures(2000), noise=source)
    phase = vae.plan_.phase("axes")
    start = next(place for place, item in enumerate(log) if item[:2] == ("spent", "axes"))
    end = next(place for place, item in enumerate(log) if item[:2] == ("spent", "class prior"))
    stds = [item[2] for item in log[start:end] if item[0] == "noise"]
    weights = sorted({1 / 2.0**40, math.sqrt(2) / 2.0**40, 0.5 / 2.0**20, 0.1})
    expected = phase.noise_multiplier * phase.sensitivity
    assert [std * weight for std, weight in zip(stds, weights, strict=True)] == pytest.approx([expected] * 4)


def test_the_data_sets_ledger_is_charged_with_the_whole_plan_first(spied, people, facts, tmp_path):
    log, source = spied
    Ledger.open(tmp_path / "a", 3.0, 1e-5)
    vae = VAE(epsilon=2.0).fit(people(2000), schema=facts, noise=source, ledger=tmp_path / "a")
    shared = [place for place, item in enumerate(log) if item[0] == "spent" and item[3] is not None]
    noise = [place for place, item in enumerate(log) if item[0] in ("noise", "coins", "release")]
    assert max(shared) < min(noise)
    assert Ledger.load(tmp_path / "a").events == vae.ledger.events


def test_past_the_cap_nothing_is_drawn(spied, people, facts, tmp_path):
    log, source = spied
    Ledger.open(tmp_path / "a", 1.0, 1e-5)
    for epsilon in (2.0, math.inf):
        with pytest.raises(PrivacyRefused):
            VAE(epsilon=epsilon).fit(people(200), schema=facts, noise=source, ledger=str(tmp_path / "a"))
    assert [item for item in log if item[0] != "spent"] == []
    assert Ledger.load(tmp_path / "a").events == ()


def test_a_statistic_with_other_noise_than_planned_is_refused(spied, people, facts, monkeypatch):
    log, source = spied
    real = Run._phase
    louder = {"noise_multiplier": 0.1}
    monkeypatch.setattr(Run, "_phase", lambda self, name: real(self, name).model_copy(update=louder))
    with pytest.raises(PrivacyRefused, match="than was planned"):
        VAE(epsilon=2.0).fit(people(200), schema=facts, noise=source)
    assert log == []


def test_a_sampler_that_says_another_event_is_refused(spied, people, facts, monkeypatch):
    log, source = spied
    monkeypatch.setattr(Poisson, "event", lambda self, mechanism, steps: Event(9.0, self.rate, steps))
    with pytest.raises(PrivacyRefused, match="than was planned"):
        VAE(2.0, rows=2000, recipe="gradients", training=SMALL).fit(people(200), schema=facts, noise=source)
    assert log == []
