"""Secret coins: fair, independent of each other and of the data, kept in a file of their owner's own."""

import json
import stat

import numpy as np
import pandas as pd
import pytest

from privae.audit.coins import KEPT_OUT, Coins, canaries_for
from privae.errors import ArtifactError, UsageError

KEY = bytes(range(32))


def table(count, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.random(count), "b": rng.integers(0, 9, count).astype(str)})


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 3)).astype(np.uint8)


def test_the_same_key_gives_the_same_coins_and_another_key_others():
    one, same, other = Coins(200, 0.3, KEY), Coins(200, 0.3, KEY), Coins(200, 0.3, bytes(32))
    for data in (table(1000), pictures(1000)):
        assert (one.taking_part(data) == same.taking_part(data)).all()
        assert (one.taking_part(data) != other.taking_part(data)).any()
    assert (one.planted() == same.planted()).all()
    assert (one.planted() != other.planted()).any()
    assert (Coins(200).planted() != Coins(200).planted()).any()


@pytest.mark.parametrize("made", [table, pictures])
def test_a_records_coin_is_that_of_its_content_whoever_stands_beside_it(made):
    """So neighbors differ in one record, or in none, for every key."""
    coins, data = Coins(0, 0.3, KEY), made(500)
    told = coins.taking_part(data)
    order = np.random.default_rng(1).permutation(500)
    shuffled = data.iloc[order] if isinstance(data, pd.DataFrame) else data[order]
    assert (coins.taking_part(shuffled) == told[order]).all()
    without = np.delete(np.arange(500), 7)
    fewer = data.iloc[without] if isinstance(data, pd.DataFrame) else data[without]
    assert (coins.taking_part(fewer) == told[without]).all()
    assert coins.taking_part(data[:0]).tolist() == []


@pytest.mark.parametrize("copies", [1, 2, 50])
def test_equal_records_have_coins_of_their_own_and_one_more_changes_no_other(copies):
    coins = Coins(0, 0.3, KEY)
    one = pd.concat([table(1)] * copies + [table(30, 1)], ignore_index=True)
    more = pd.concat([table(1), one], ignore_index=True)
    assert coins.taking_part(more).sum() - coins.taking_part(one).sum() in (0, 1)
    alike = pd.concat([table(1)] * 50, ignore_index=True)
    assert 0 < coins.taking_part(alike).sum() < 50


def test_a_coin_does_not_depend_on_how_a_value_is_held():
    """Read from CSV as text or kept as numbers; columns in another order."""
    frame = pd.DataFrame({"a": np.arange(300), "b": ["x", "y", None] * 100, "c": [True, False] * 150})
    told = Coins(0, 0.3, KEY).taking_part(frame)
    text = frame.astype({"a": str, "c": str})
    assert (Coins(0, 0.3, KEY).taking_part(text[["c", "a", "b"]]) == told).all()
    assert (Coins(0, 0.3, KEY).taking_part(frame.astype({"b": "category"})) == told).all()
    assert (Coins(0, 0.3, KEY).taking_part(frame.set_axis(frame.index + 5)) == told).all()


def test_images_of_any_size_and_layout_have_coins():
    wide = np.random.default_rng(0).integers(0, 256, (200, 5, 7)).astype(np.uint8)
    told = Coins(0, 0.3, KEY).taking_part(wide)
    assert (Coins(0, 0.3, KEY).taking_part(np.asfortranarray(wide)) == told).all()
    assert (Coins(0, 0.3, KEY).taking_part(wide[::2]) == told[::2]).all()
    assert 0 < told.sum() < 200


def test_coins_are_as_fair_as_said():
    """20,000 coins each, key fixed: within 4 standard deviations (one in 16,000 keys would fail)."""
    coins = Coins(20_000, KEPT_OUT, KEY)
    assert abs(coins.planted().mean() - 0.5) < 4 * np.sqrt(0.25 / 20_000)
    for data in (table(20_000), pictures(20_000)):
        assert abs((~coins.taking_part(data)).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000)
    assert Coins(5, 0.0, KEY).taking_part(table(1000)).all()
    assert Coins(0, 0.0, KEY).planted().shape == (0,)


def test_uses_do_not_share_a_keystream():
    """Coins of records and of canaries: as different as chance."""
    coins = Coins(4096, 0.5, KEY)
    agree = (coins.taking_part(table(4096)) == coins.planted()).mean()
    assert abs(agree - 0.5) < 4 * np.sqrt(0.25 / 4096)
    assert coins.source("values").words(2).tolist() != coins.source("canaries").words(2).tolist()


def test_the_key_is_no_part_of_what_is_shown():
    assert KEY.hex() not in repr(Coins(3, 0.1, KEY))
    assert "\\x01" not in repr(Coins(3, 0.1, KEY))


@pytest.mark.parametrize("wrong", [(-1, 0.1, KEY), (1, 0.51, KEY), (1, -0.1, KEY), (1, 0.1, b"short")])
def test_coins_that_are_none_are_refused(wrong):
    with pytest.raises(UsageError, match="coins need"):
        Coins(*wrong)


def test_a_file_of_coins_is_its_owners_alone_and_comes_back(tmp_path):
    path = tmp_path / "m.coins"
    path.write_text("old")
    path.chmod(0o644)
    Coins(7, 0.05, KEY, "ab").save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Coins.load(path) == Coins(7, 0.05, KEY, "ab")
    assert "data holder only" in json.loads(path.read_text())["note"]


def test_a_file_that_holds_no_coins_is_said_to(tmp_path):
    path = tmp_path / "m.coins"
    with pytest.raises(UsageError, match="--audit standard"):
        Coins.load(path)
    Coins(7, 0.05, KEY).save(path)
    good = json.loads(path.read_text())
    for changes in (
        {"format": "privae-coins/9"},
        {"key": "00"},
        {"key": "xy" * 32},
        {"key": 5},
        {"canaries": "many"},
        {"canaries": None},
        {"kept_out": 2},
    ):
        path.write_text(json.dumps(good | changes))
        with pytest.raises((ArtifactError, UsageError)) as error:
            Coins.load(path)
        assert str(path) in str(error.value), changes
    for content in (b"", b"[]", b"5", b"\xff", b"{}"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="restore a copy"):
            Coins.load(path)


def test_how_many_canaries_follows_from_declared_rows_alone():
    assert [canaries_for(rows) for rows in (None, 1, 1000, 1050, 25_000, 10**9)] == [
        100,
        20,
        20,
        21,
        500,
        500,
    ]
