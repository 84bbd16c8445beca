"""The holder's keys: encrypted at rest, named by their public file, and what they share is noised, rounded, counted."""

import stat
from dataclasses import replace

import numpy as np
import pytest

from privae.ckks.clear import Clear
from privae.ckks.parameters import Parameters
from privae.encrypted import keys
from privae.encrypted.keys import ADVANTAGE, MOST_SHARED, KeyRing, deviation, flood, shared, start_count
from privae.encrypted.offer import Output
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy.noise import NoiseSource

WORDS = "correct horse battery staple"
SMALL = Parameters(4096, (30, 30, 40))
SCORES = Output(width=1, level=0, scale=2.0**30, error=1e-6, worst=1e-5, noise=1e-6, spread=10.0)


@pytest.fixture
def quick(monkeypatch):
    """scrypt with little work."""
    from privae.custody import vault

    monkeypatch.setattr(vault, "_WORK", 2**10)


def test_a_key_comes_back_and_lies_encrypted(tmp_path, quick):
    ring, public = KeyRing.made(SMALL)
    ring.write(tmp_path / "a.key", WORDS)
    again = KeyRing.read(tmp_path / "a.key", WORDS)
    assert (again.name, again.parameters) == (ring.name, SMALL) == (public.key, public.parameters)
    assert again.holder.secret == ring.holder.secret
    content = (tmp_path / "a.key").read_bytes()
    raw = ring.holder.residues.tobytes()
    assert not any(raw[i : i + 16] in content for i in range(0, 4096, 16))
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


def test_no_part_of_a_key_is_printed(quick):
    ring, _ = KeyRing.made(SMALL)
    assert "holder" not in repr(ring)


@pytest.mark.parametrize("words", ["", "wrong horse battery staple", WORDS + " "])
def test_another_passphrase_is_refused(tmp_path, quick, words):
    KeyRing.made(SMALL)[0].write(tmp_path / "a.key", WORDS)
    with pytest.raises(ArtifactError, match="another passphrase"):
        KeyRing.read(tmp_path / "a.key", words)


def test_a_short_passphrase_is_refused(tmp_path, quick):
    with pytest.raises(UsageError, match="at least 12"):
        KeyRing.made(SMALL)[0].write(tmp_path / "a.key", "short")
    assert not (tmp_path / "a.key").exists()


def test_a_key_under_another_name_does_not_open(tmp_path, quick):
    from privae.ckks.container import load

    KeyRing.made(SMALL)[0].write(tmp_path / "a.key", WORDS)
    replace(load(tmp_path / "a.key"), key="0" * 64).write(tmp_path / "b.key")
    with pytest.raises(ArtifactError, match="another passphrase, or the file was changed"):
        KeyRing.read(tmp_path / "b.key", WORDS)


def test_only_asked_rotations_are_made():
    _, public = KeyRing.made(SMALL, [5, 2, 5])
    assert public.about["rotations"] == [2, 5]
    assert len(keys.public_parts(public)) == 3
    assert len(keys.public_parts(KeyRing.made(SMALL)[1])) == 2


@pytest.fixture(scope="module")
def ring():
    return KeyRing.made(SMALL)[0]


@pytest.fixture
def counted(tmp_path, ring):
    start_count(tmp_path / "count", ring)
    return tmp_path / "count"


def test_shared_numbers_have_the_stated_noise_and_step(counted, ring):
    values = np.full(900, 3.0)
    found, step = shared(values, SCORES, ring, counted, NoiseSource(bytes(32)))
    spread = deviation(SCORES.noise)
    assert step <= spread < 10 * step
    assert np.allclose(found / step, np.round(found / step))
    rounding = step / np.sqrt(12)
    assert found.std() == pytest.approx(np.hypot(spread, rounding), rel=0.15)
    assert abs(found.mean() - 3.0) < 4 * np.hypot(spread, rounding) / 30


def test_what_noise_hides_follows_from_pinsker():
    """KL of one number is noise^2 / (2 s^2); all of a key's life move an observer by at most ADVANTAGE."""
    noise = 1e-6
    spread = deviation(noise)
    divergence = MOST_SHARED * noise**2 / (2 * spread**2)
    assert np.sqrt(divergence / 2) == pytest.approx(ADVANTAGE)


def test_a_key_shares_so_many_numbers_and_no_more(counted, ring):
    shared(np.zeros(MOST_SHARED - 1), SCORES, ring, counted)
    with pytest.raises(PrivacyRefused, match="at most 1000 numbers in its life"):
        shared(np.zeros(2), SCORES, ring, counted)
    shared(np.zeros(1), SCORES, ring, counted)
    with pytest.raises(PrivacyRefused, match="make a new one"):
        shared(np.zeros(1), SCORES, ring, counted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"shared": "many"}',
        '{"shared": -5}',
        '{"shared": 0}',
        '{"shared": 0, "key": "other"}',
    ],
)
def test_a_broken_count_is_not_taken_for_none(counted, ring, text):
    counted.write_text(text)
    with pytest.raises(ArtifactError, match="what the key has shared"):
        shared(np.zeros(1), SCORES, ring, counted)


def test_a_count_that_is_gone_is_not_taken_for_none(tmp_path, ring):
    with pytest.raises(ArtifactError, match="is not there"):
        shared(np.zeros(1), SCORES, ring, tmp_path / "none")


def test_scores_that_the_noise_would_drown_are_not_shared(counted, ring):
    with pytest.raises(PrivacyRefused, match="--precision precise"):
        shared(np.zeros(1), replace(SCORES, noise=1e-4), ring, counted)
    with pytest.raises(PrivacyRefused, match="no numbers"):
        shared(np.array([np.nan]), SCORES, ring, counted)
    assert '"shared":0' in counted.read_text()


@pytest.mark.parametrize("noise", [0.0, 1e-12])
def test_noise_that_no_ciphertext_has_is_not_believed(counted, ring, noise):
    least = Clear(SMALL).least_noise(SCORES.scale)
    _, step = shared(np.zeros(1), replace(SCORES, noise=noise), ring, counted)
    assert step > deviation(least) / 10 > 0
    assert flood(replace(SCORES, noise=noise), ring) == deviation(least)
