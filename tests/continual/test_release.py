"""A stream in its folder: exact without noise, each step once whatever is killed, refused where it may not go on."""

import math
import shutil
import stat

import numpy as np
import pandas as pd
import pytest
import torch

from privae import files
from privae.continual.contributions import total
from privae.continual.plan import planned
from privae.continual.release import Continual
from privae.continual.state import State
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy.correlated import SCALE
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource

UNITS = np.arange(50)


def plan_of(**choices):
    fields = {
        "bounds": {"a": (0, 4), "b": (-10, 10)},
        "steps": 6,
        "protect": "step",
        "epsilon": 1,
        "units": 50,
    }
    return planned(**fields | choices)


def day(seed):
    rng = np.random.default_rng(seed)
    values = np.stack([rng.uniform(-1, 5, 50), rng.normal(0, 8, 50)], axis=1)
    values[seed % 7 :: 9, 1] = np.nan
    return values


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "stream"


@pytest.mark.parametrize("protect", ["unit", "step"])
def test_without_noise_the_sums_are_exact(folder, protect):
    plan = plan_of(epsilon=math.inf, protect=protect)
    stream = Continual.open(folder, plan)
    for t in range(6):
        assert stream.add(day(t), UNITS, f"d{t}") == t + 1
    for t in range(6):
        values = np.clip(day(t), [0, -10], [4, 10])
        row = stream.released.iloc[t]
        assert row["units"] == pytest.approx(50)
        assert row["b:count"] == pytest.approx(np.isfinite(values[:, 1]).sum())
        assert row["a:sum"] == pytest.approx(values[:, 0].sum(), abs=1e-3)
        assert row["b:sum"] == pytest.approx(np.nansum(values[:, 1]), abs=1e-2)
    latest = stream.means(3).tail(2)["mean"].to_numpy()
    every = np.concatenate([np.clip(day(t), [0, -10], [4, 10]) for t in (3, 4, 5)])
    assert latest == pytest.approx(np.nanmean(every, axis=0), abs=1e-4)
    assert not stream.guarantee().holds


def test_the_noise_is_the_streams_across_processes(folder, monkeypatch):
    """q_t = R_t + w_t, SCALE w_t = z_t - sum a_j w_(t-j) rounded half up, where each process draws its own z_t."""
    drawn, fill = [], NoiseSource.fill

    def filling(self, out, std):
        fill(self, out, std)
        drawn.append(out.numpy().copy())

    monkeypatch.setattr(NoiseSource, "fill", filling)
    plan = plan_of(bands=4)
    Continual.open(folder, plan)
    for t in range(6):
        Continual.load(folder).add(day(t), UNITS, f"d{t}")
    expected, weights = [], plan.stream().filter
    for t in range(6):
        later = sum(weights[j] * expected[t - j] for j in range(1, min(t, 3) + 1))
        expected.append(np.floor((drawn[t] - later) / SCALE + 0.5))
    state = State.read(folder / "secret.state", plan.hash, (3, 5))
    exact = np.array([total(plan, day(t), UNITS) for t in range(6)])
    assert (state.released - exact).tolist() == np.array(expected).tolist()


def test_what_is_public_is_released_and_the_state_is_the_owners_alone(folder):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "monday")
    assert sorted(path.name for path in folder.iterdir()) == [
        "ledger.jsonl",
        "plan.toml",
        "released.csv",
        "secret.state",
    ]
    assert stat.S_IMODE((folder / "secret.state").stat().st_mode) == 0o600
    pd.testing.assert_frame_equal(pd.read_csv(folder / "released.csv"), stream.released, check_dtype=False)
    assert str(day(0)[0, 0]) not in repr(stream)
    assert "step 1 of 6" in repr(stream)


def test_weekly_means_have_less_noise_than_independent_noise_gives_and_as_much_as_is_told(folder):
    """40 numbers, which are 40 draws; the last 7 of 14 days. The root mean square is within 40 % (|z| > 3.5)."""
    bounds = {f"x{i}": (-1, 1) for i in range(40)}
    plan = planned(bounds=bounds, steps=14, protect="step", epsilon=1, units=5000, gaps=False)
    stream = Continual.open(folder, plan)
    for t in range(14):
        stream.add(np.zeros((5000, 40)), np.arange(5000), f"d{t}")
    found = stream.means(7).tail(40)
    made = np.sqrt(np.mean(found["mean"] ** 2))
    assert 0.6 < made / plan.standard_error(7) < 1.4
    assert made < plan.standard_error(7, independent=True)
    assert found["standard_error"].mean() == pytest.approx(plan.standard_error(7), rel=0.05)


def test_killed_before_the_state_nothing_was_seen_and_other_coins_are_drawn(folder, monkeypatch):
    stream = Continual.open(folder, plan_of())
    before = (folder / "released.csv").read_text()
    tried = []

    def killed(self, path):
        tried.append(self.released[-1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            stream.add(day(0), UNITS, "d0")
    assert (folder / "released.csv").read_text() == before
    again = Continual.load(folder)
    assert again.step == 0
    again.add(day(0), UNITS, "d0")
    assert not (again._state.released[0] == tried[0]).any()


@pytest.mark.parametrize("same", [True, False])
def test_killed_between_the_state_and_the_release_the_stored_one_is_published(folder, monkeypatch, same):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "d0")

    def killed(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        published = Continual._publish
        patch.setattr(
            Continual, "_publish", lambda self, s: killed(self, s) if s.step == 2 else published(self, s)
        )
        with pytest.raises(KeyboardInterrupt):
            stream.add(day(1), UNITS, "d1")
    assert len(pd.read_csv(folder / "released.csv")) == 1
    kept = State.read(folder / "secret.state", stream.plan.hash, (stream.plan.bands - 1, 5)).released
    assert len(kept) == 2
    again = Continual.load(folder)
    if same:
        assert again.add(day(1), UNITS, "d1") == 2
    else:
        with pytest.raises(UsageError, match="with other data"):
            again.add(day(9), UNITS, "d1")
    assert len(pd.read_csv(folder / "released.csv")) == 2
    assert (again._state.released == kept).all()


def test_a_day_that_is_added_twice_is_released_once(folder):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "d0")
    public = (folder / "released.csv").read_bytes()
    assert stream.add(day(0)[::-1], UNITS[::-1], "d0") == 1
    assert (folder / "released.csv").read_bytes() == public
    with pytest.raises(UsageError, match="other data"):
        stream.add(day(1), UNITS, "d0")
    assert stream.step == 1


def test_equal_days_are_two_steps_with_noise_of_their_own(folder):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "d0")
    assert stream.add(day(0), UNITS, "d1") == 2
    assert (np.diff(stream._state.released, axis=0) != 0).all()


def test_an_empty_day_is_noise(folder):
    stream = Continual.open(folder, plan_of())
    assert stream.add(np.zeros((0, 2)), [], "d0") == 1
    assert (stream._state.released != 0).all()


def test_the_stream_ends(folder):
    stream = Continual.open(folder, plan_of(steps=2))
    for t in range(2):
        stream.add(day(t), UNITS, f"d{t}")
    with pytest.raises(PrivacyRefused, match="charged for 2 steps"):
        stream.add(day(2), UNITS, "d2")
    assert len(pd.read_csv(folder / "released.csv")) == 2


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_name_that_is_none_is_refused(folder, name):
    stream = Continual.open(folder, plan_of())
    with pytest.raises(UsageError, match="printable"):
        stream.add(day(0), UNITS, name)


def test_a_name_with_commas_and_quotes_is_read_back(folder):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, 'a, "b"')
    assert Continual.load(folder).days == ('a, "b"',)
    assert pd.read_csv(folder / "released.csv")["day"].tolist() == ['a, "b"']


def test_one_process_at_a_time(folder):
    stream = Continual.open(folder, plan_of())
    with files.owned(folder / "secret.state"), pytest.raises(UsageError, match="another process"):
        stream.add(day(0), UNITS, "d0")
    other = Continual.load(folder)
    other.add(day(0), UNITS, "d0")
    assert stream.add(day(1), UNITS, "d1") == 2  # it reads the state again


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "other", "model"])
def test_a_state_that_was_changed_is_refused(folder, tmp_path, harm):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "d0")
    path = folder / "secret.state"
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "gone":
        path.unlink()
    elif harm == "model":
        path.write_bytes(files.archive({"plan.toml": b""}))
    else:
        Continual.open(tmp_path / "other", plan_of(steps=7))
        shutil.copy(tmp_path / "other" / "secret.state", path)
    with pytest.raises(ArtifactError) as caught:
        Continual.load(folder)
    assert "restore" not in str(caught.value)


@pytest.mark.parametrize("name", ["plan.toml", "ledger.jsonl"])
def test_a_plan_or_ledger_of_another_stream_is_refused(folder, tmp_path, name):
    Continual.open(folder, plan_of())
    Continual.open(tmp_path / "other", plan_of(epsilon=2))
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ArtifactError, match="do not trust"):
        Continual.load(folder)


def test_a_public_file_that_was_changed_or_lost_is_refused(folder):
    stream = Continual.open(folder, plan_of())
    stream.add(day(0), UNITS, "d0")
    path = folder / "released.csv"
    text = path.read_text()
    path.write_text(text.replace("d0", "d9"))
    with pytest.raises(ArtifactError, match="not what was released"):
        stream.add(day(1), UNITS, "d1")
    path.unlink()
    with pytest.raises(ArtifactError, match="not there"):
        stream.add(day(1), UNITS, "d1")


def test_a_state_that_was_set_back_is_refused(folder):
    stream = Continual.open(folder, plan_of())
    old = (folder / "secret.state").read_bytes()
    stream.add(day(0), UNITS, "d0")
    (folder / "secret.state").write_bytes(old)
    with pytest.raises(PrivacyRefused, match="older copy"):
        Continual.load(folder)
    with pytest.raises(PrivacyRefused, match="older copy"):
        stream.add(day(1), UNITS, "d1")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_folder_that_was_set_back_is_refused_where_a_ledger_knows(folder, tmp_path, steps):
    ledger = Ledger.open(tmp_path / "homes.ledger", 2.0, 1e-5)
    stream = Continual.open(folder, plan_of(), ledger)
    for t in range(steps):
        stream.add(day(t), UNITS, f"d{t}")
    shutil.copytree(folder, tmp_path / "old")
    stream.add(day(steps), UNITS, f"d{steps}")
    spent = Ledger.load(tmp_path / "homes.ledger").epsilon
    with pytest.raises(PrivacyRefused, match="older copy"):
        Continual.load(tmp_path / "old").add(day(9), UNITS, "d9")
    assert Continual.load(folder).add(day(9), UNITS, "d9") == steps + 2
    assert Ledger.load(tmp_path / "homes.ledger").epsilon == spent  # noting steps costs nothing


def test_killed_before_the_ledger_is_told_it_is_told_later(folder, tmp_path, monkeypatch):
    ledger = Ledger.open(tmp_path / "homes.ledger", 2.0, 1e-5)
    stream = Continual.open(folder, plan_of(), ledger)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "resume", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stream.add(day(0), UNITS, "d0")
    assert len(pd.read_csv(folder / "released.csv")) == 0
    again = Continual.load(folder)
    assert again.add(day(0), UNITS, "d0") == 1
    assert len(pd.read_csv(folder / "released.csv")) == 1
    assert again.add(day(1), UNITS, "d1") == 2


def test_a_ledgers_cap_refuses_and_leaves_nothing(folder, tmp_path):
    ledger = Ledger.open(tmp_path / "homes.ledger", 0.5, 1e-5, unit="person")
    with pytest.raises(PrivacyRefused, match="this run needs epsilon"):
        Continual.open(folder, plan_of(protect="unit"), ledger)
    assert not folder.exists()
    assert len(Ledger.load(tmp_path / "homes.ledger").entries) == 1
    Continual.open(folder, plan_of(protect="unit", epsilon=0.5, delta=1e-5), tmp_path / "homes.ledger")
    assert Ledger.load(tmp_path / "homes.ledger").epsilon <= 0.5


def test_a_ledger_without_a_cap_a_moved_one_and_one_that_was_not_named(folder, tmp_path):
    with pytest.raises(UsageError, match="has no cap"):
        Continual.open(folder, plan_of(), Ledger.fresh(1e-6))
    Continual.open(folder, plan_of())
    Ledger.open(tmp_path / "l", 2.0, 1e-5)
    with pytest.raises(UsageError, match="not charged to a ledger"):
        Continual.load(folder, tmp_path / "l")
    Continual.open(tmp_path / "charged", plan_of(), tmp_path / "l")
    (tmp_path / "l").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="cannot be read"):
        Continual.load(tmp_path / "charged")
    Continual.load(tmp_path / "charged", tmp_path / "moved").add(day(0), UNITS, "d0")
    Ledger.open(tmp_path / "wrong", 2.0, 1e-5)
    with pytest.raises(PrivacyRefused, match="another ledger"):
        Continual.load(tmp_path / "charged", tmp_path / "wrong")


def test_a_folder_that_is_taken_or_is_none(folder, tmp_path):
    Continual.open(folder, plan_of())
    with pytest.raises(UsageError, match="never overwritten"):
        Continual.open(folder, plan_of())
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        Continual.open(tmp_path / "file" / "in", plan_of())
    with pytest.raises(UsageError, match="holds no stream"):
        Continual.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert Continual.open(tmp_path / "empty", plan_of()).step == 0
    with pytest.raises(UsageError, match="at least one step"):
        Continual.load(folder).means(0)


def test_correlated_noise_of_another_stream_is_refused():
    from privae.privacy.correlated import Correlated

    noise = Correlated(NoiseSource(), plan_of(bands=4).stream(), 5)
    for step, past in ((0, torch.zeros(2, 5)), (7, torch.zeros(3, 5)), (-1, torch.zeros(3, 5))):
        with pytest.raises(UsageError, match="not of this stream"):
            noise.resume(step, past.double())


def test_of_two_copies_that_released_a_step_only_the_one_that_the_ledger_knows_shows_it(
    folder, tmp_path, monkeypatch
):
    Ledger.open(tmp_path / "homes.ledger", 5.0, 1e-5)
    stream = Continual.open(folder, plan_of(), tmp_path / "homes.ledger")
    shutil.copytree(folder, tmp_path / "copy")
    tell = Continual._tell

    def killed(self, state):
        if state.step:
            raise KeyboardInterrupt
        tell(self, state)

    with monkeypatch.context() as patched:
        patched.setattr(Continual, "_tell", killed)
        with pytest.raises(KeyboardInterrupt):
            stream.add(day(0), UNITS, "d0")
    other = Continual.load(tmp_path / "copy")
    other.add(day(0), UNITS, "d0")
    with pytest.raises(PrivacyRefused, match="older copy"):
        Continual.load(folder)
    assert Continual.load(tmp_path / "copy").released.equals(other.released)


def test_a_step_is_in_the_ledger_before_it_is_shown(folder, tmp_path, monkeypatch):
    Ledger.open(tmp_path / "homes.ledger", 5.0, 1e-5)
    stream = Continual.open(folder, plan_of(), tmp_path / "homes.ledger")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "resume", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stream.add(day(0), UNITS, "d0")
    before = len(Ledger.load(tmp_path / "homes.ledger").entries)
    assert Continual.load(folder).step == 1
    assert len(Ledger.load(tmp_path / "homes.ledger").entries) == before + 1
