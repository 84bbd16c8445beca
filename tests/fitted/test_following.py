"""Reading by reading: how much each surprises, given those before it in its window."""

import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.data.column import Column
from privae.errors import DataError, UsageError
from privae.fitted import following
from privae.fitted.following import Course, Follower, explained, points
from privae.fitted.series import FittedSeries
from privae.privacy.noise import NoiseSource
from privae.series.windows import windows

NOTHING = {"score": None, "window": None, "share": None}


@pytest.fixture(scope="module")
def fitted(homes):
    schema = homes.schema.model_copy(update={"conditions": ("weekday",), "windows": 7})
    return VAE(8.0, rows=300, schema=schema).fit(homes(300, days=7), noise=NoiseSource(bytes(32))).fitted_


@pytest.fixture(scope="module")
def exact(homes):
    return VAE(math.inf, rows=300, schema=homes.schema).fit(homes(300)).fitted_


@pytest.fixture(scope="module")
def gappy(homes):
    """A model of a long table with states and gaps, whose readings stand for two hours."""
    mode = Column(name="mode", kind="category", categories=("a", "b"), missing=True)
    wide = homes.schema.model_copy(update={"channels": (*homes.schema.channels, mode), "filled": 0.2})
    rng, frame = np.random.default_rng(0), homes(200)
    frame = frame.assign(mode=rng.choice(["a", "b"], len(frame)))
    long = frame.melt(["home", "time"], var_name="what", value_name="value").astype({"value": object})
    schema = wide.model_copy(update={"channel": "what", "value": "value", "hold": "2h", "resample": "last"})
    return VAE(math.inf, rows=200, schema=schema).fit(long).fitted_, long


def pushed(fitted, frame):
    follower = Follower(fitted)
    return [follower.push(row) for row in frame.to_dict("records")]


def test_a_table_is_scored_as_its_rows_are_one_after_the_other(fitted, homes):
    frame = homes(3, days=2, seed=9)
    frame.loc[30, "power"] = 4.9
    frame.loc[[3, 4, 60], "heat"] = np.nan
    whole = points(fitted, frame)
    assert whole.columns.tolist() == ["home", "time", "score", "power expected", "heat expected"]
    in_time = frame.sort_values("time", kind="stable")
    found = in_time.assign(score=[one["score"] for one in pushed(fitted, in_time)]).astype({"home": str})
    both = whole.merge(found, on=["home", "time"], suffixes=("", " pushed"))
    assert len(both) == len(whole) == len(frame)
    assert both["score pushed"].to_numpy() == pytest.approx(both["score"].to_numpy(), rel=1e-9)
    assert whole["score"].idxmax() == 30
    assert whole.loc[30, "power expected"] < 3.5
    assert np.abs(frame["power"] - whole["power expected"]).median() < 0.3


def test_steps_without_a_reading_are_left_out_and_tell_nothing(fitted, homes):
    frame = homes(1, days=1, seed=2)
    holes = frame.drop(index=[5, 6, 7])
    whole, again = points(fitted, frame), points(fitted, holes)
    assert len(again) == 21
    assert again["score"].to_numpy()[:5] == pytest.approx(whole["score"].to_numpy()[:5])
    assert [one["score"] for one in pushed(fitted, holes)] == pytest.approx(again["score"].tolist())
    blank = frame.assign(power=np.nan, heat=None)
    assert pushed(fitted, blank) == [NOTHING] * 24


def test_long_tables_with_states_and_readings_that_stand(gappy):
    model, long = gappy
    frame = long.loc[long["home"].astype(str).isin(["0", "1"])]
    drop = np.random.default_rng(1).random(len(frame)) < 0.3
    frame = frame.loc[~drop].sort_values("time", kind="stable")
    frame = pd.concat([frame, frame.iloc[:3].assign(what="unknown")]).sort_values("time", kind="stable")
    whole = points(model, frame).set_index(["home", "time"])["score"]
    found = frame.assign(score=[one["score"] for one in pushed(model, frame)]).dropna(subset="score")
    last = found.groupby([found["home"].astype(str), "time"])["score"].last()
    both = pd.concat([whole, last.rename("pushed").rename_axis(["home", "time"])], axis=1, join="inner")
    assert len(both) > 40
    assert both["pushed"].to_numpy() == pytest.approx(both["score"].to_numpy(), rel=1e-6)


def test_late_rows_and_rows_of_nobody_or_no_time_are_not_scored(fitted, homes):
    rows = homes(1, days=2).to_dict("records")
    follower = Follower(fitted)
    scored = [follower.push(row) for row in rows[:30]]
    assert None not in [one["score"] for one in scored]
    assert follower.push(rows[28]) == NOTHING
    assert follower.push(rows[3]) == NOTHING
    for change in (
        {"time": "soon"},
        {"time": None},
        {"home": None},
        {"home": ""},
        {"power": "x", "heat": "?"},
    ):
        assert follower.push(rows[30] | change) == NOTHING
    once = follower.push(rows[30])
    assert once["score"] == pytest.approx(points(fitted, homes(1, days=2).iloc[:36])["score"][30])
    with pytest.raises(DataError, match="no column 'heat'"):
        follower.push({"home": 0, "time": "2026-01-02", "power": 1})


def test_several_readings_of_a_step_are_resampled_as_they_come(fitted, homes):
    frame = homes(1, days=1)
    later = frame.iloc[[10]].assign(time=frame["time"][10] + pd.Timedelta(minutes=20), power=4.0)
    both = pd.concat([frame.iloc[:11], later])
    found = pushed(fitted, both)
    first, again = (points(fitted, pd.concat([part, frame.iloc[11:]])) for part in (frame.iloc[:11], both))
    assert found[10]["score"] == pytest.approx(first["score"][10])
    assert found[11]["score"] == pytest.approx(again["score"][10])


def test_ids_are_followed_apart_and_the_oldest_forgotten(fitted, homes, monkeypatch):
    lanes = len(fitted.waves.lanes)
    monkeypatch.setattr(following, "_MOST_HELD", 2 * 4 * fitted.schema.steps * lanes)
    frame = homes(4, days=1).sort_values("time", kind="stable").iloc[:12]
    follower = Follower(fitted)
    for row in frame.to_dict("records"):
        assert follower.push(row)["score"] > 0
    assert list(follower._states) == [("2",), ("3",)]


def test_a_normal_reading_scores_about_one_and_a_strange_one_is_rarely_as_strange(exact, homes):
    frame = homes(4, days=3, seed=7).sort_values("time", kind="stable")
    found = pd.DataFrame(pushed(exact, frame))
    assert 0.4 < found["score"].median() < 2.0
    assert found["share"].between(0, 1).all()
    assert 0.3 < found["share"].mean() < 0.7
    row = frame.to_dict("records")[-1] | {"power": 0.0}
    assert pushed(exact, pd.concat([frame.iloc[:-1], pd.DataFrame([row])]))[-1]["share"] < 0.01


def test_surprises_of_the_models_own_samples_have_mean_square_one(exact):
    course, rng = Course(exact), np.random.default_rng(0)
    drawn = exact.drawn(400, rng)
    flat = drawn.values.reshape(len(drawn), -1)
    found = course.surprises(flat, course.mean(drawn.start, drawn.kind))
    assert (found**2).mean() == pytest.approx(1.0, abs=0.15)
    assert np.abs(found.mean(0)).max() < 0.4


def test_the_covariance_is_that_of_drawn_lanes(exact):
    course, rng = Course(exact), np.random.default_rng(0)
    drawn = exact.drawn(1500, rng)
    flat = drawn.values.reshape(len(drawn), -1) - course.mean(drawn.start, drawn.kind)
    sampled = flat.T @ flat / len(flat)
    variance = np.diagonal(course.covariance)
    assert np.diagonal(sampled) == pytest.approx(variance, rel=0.35)
    assert np.trace(sampled) == pytest.approx(variance.sum(), rel=0.1)
    deviation = np.sqrt(variance)
    assert np.abs((sampled - course.covariance) / np.outer(deviation, deviation)).max() < 0.35
    assert np.linalg.eigvalsh(course.covariance).min() > 0


def test_why_windows_are_strange(fitted, homes):
    frame = homes(4, days=1, seed=3)
    scores = -fitted.score(frame)
    shown = explained(fitted, frame, (np.array([2, 0]), scores))
    assert [title.split()[0] for title, _, _ in shown] == ["2", "0"]
    for (_, time, tracks), home in zip(shown, (2, 0), strict=True):
        assert [track.name for track in tracks] == ["power", "heat"]
        assert time.shape == (24,)
        mine = frame.loc[frame["home"] == home, "power"].to_numpy()
        assert tracks[0].values == pytest.approx(mine, abs=1e-6)
        assert np.abs(tracks[0].expected - mine).mean() < 1
        assert (tracks[0].deviation > 0).all()
        assert tracks[0].heat.shape == (24,)
    assert explained(fitted, frame, (np.zeros(0, int), scores)) == []


def test_no_windows_have_no_points(fitted, homes):
    frame = homes(2, days=1)
    for none in (frame.iloc[:0], frame.iloc[:3]):
        found = points(fitted, none)
        assert len(found) == 0
        assert "score" in found
    assert len(windows(frame.iloc[:3], fitted.schema)[0]) == 0


def test_a_lane_that_is_never_known_leaves_the_others_their_shares(homes):
    """Nobody says what the heat is: every drawn window has none, and shares are those of power."""
    schema = homes.schema.model_copy(update={"filled": 0.4})
    model = VAE(math.inf, rows=100, schema=schema).fit(homes(100).assign(heat=None)).fitted_
    found = pd.DataFrame(pushed(model, homes(2, seed=1).assign(heat=None)))
    assert 0.2 < found["share"].mean() < 0.8


def test_bounds_alone_and_very_long_windows_are_not_followed(fitted):
    from dataclasses import replace

    blind = FittedSeries(fitted.schema, replace(fitted.model, basis="public"))
    with pytest.raises(UsageError, match="nothing to show"):
        Follower(blind)
    long = FittedSeries(fitted.schema.model_copy(update={"step": "1min"}), fitted.model)
    with pytest.raises(UsageError, match="at most 2048"):
        Course(long)


def test_series_of_one_home_are_followed_apart(homes):
    frame = homes(40, days=2)
    both = pd.concat([frame.assign(meter="cellar"), frame.assign(meter="roof", power=frame["power"] + 1)])
    schema = homes.schema.model_copy(update={"series": "meter"})
    vae = VAE(math.inf, rows=40, schema=schema).fit(both)
    part = both.loc[both["home"] < 2].sort_values("time", kind="stable")
    follower = Follower(vae.fitted_)
    told = [follower.push(row)["score"] for row in part.to_dict("records")]
    found = points(vae.fitted_, part).assign(home=lambda table: table["home"].astype(int))
    key = ["home", "meter", "time"]
    expected = part[key].merge(found, on=key)["score"]
    assert told == pytest.approx(expected.tolist())
    assert {"home", "meter", "time"} <= set(vae.fitted_.names(part))
    assert vae.sample(2, seed=0)["meter"].unique().tolist() == ["1"]
