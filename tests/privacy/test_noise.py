"""The keystream and the draws made from it."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from mpmath import mp

from privae.errors import PrivacyRefused, ResourceError, UsageError
from privae.privacy import noise as module
from privae.privacy.noise import NoiseSource

KEY = bytes(range(32))


def test_words_are_the_aes_256_counter_mode_keystream_from_zero():
    expected = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 7))
    source = NoiseSource(KEY)
    drawn = np.concatenate([source.words(3), source.words(0), source.words(4)])
    assert drawn.tobytes() == expected


def test_a_key_is_secret_unless_a_test_passes_one():
    source = NoiseSource()
    assert not source.fixed
    assert NoiseSource(KEY).fixed
    assert KEY.hex() not in repr(NoiseSource(KEY)) + repr(vars(NoiseSource(KEY)))
    assert repr(KEY) not in repr(vars(NoiseSource(KEY)))
    assert (source.words(4) != NoiseSource().words(4)).all()


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(UsageError, match="32 bytes"):
        NoiseSource(key)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_source_cannot_be_copied_or_written(copier):
    with pytest.raises(PrivacyRefused, match="never copied"):
        copier(NoiseSource(KEY))


def test_a_source_is_refused_after_a_fork(monkeypatch):
    source = NoiseSource(KEY)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PrivacyRefused, match="fork"):
        source.words(1)


def test_the_keystream_of_one_key_ends(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WORDS", 4)
    source = NoiseSource(KEY)
    source.words(4)
    with pytest.raises(ResourceError, match="used up"):
        source.words(1)


def test_uniforms_are_odd_multiples_of_two_to_the_minus_53():
    drawn = NoiseSource(KEY).uniform(10_000)
    scaled = drawn * 2.0**53
    assert (scaled == np.rint(scaled)).all()
    assert (scaled % 2 == 1).all()
    assert drawn.min() > 0
    assert drawn.max() < 1


def test_uniforms_reach_neither_zero_nor_one(monkeypatch):
    source = NoiseSource(KEY)
    monkeypatch.setattr(source, "words", lambda count: np.array([0, 2**64 - 1], dtype=np.uint64))
    assert source.uniform(2).tolist() == [2.0**-53, 1 - 2.0**-53]


def test_a_coin_is_true_exactly_below_the_floor_of_the_scaled_rate(monkeypatch):
    source = NoiseSource(KEY)
    edge = int(0.3 * 2.0**64)
    monkeypatch.setattr(
        source, "words", lambda count: np.array([0, edge - 1, edge, 2**64 - 1], dtype=np.uint64)
    )
    assert source.bernoulli(4, 0.3).tolist() == [True, True, False, False]
    assert not source.bernoulli(4, 0.0).any()
    assert source.bernoulli(4, 1.0).all()
    assert not source.bernoulli(4, 2.0**-65).any()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(UsageError, match="between 0 and 1"):
        NoiseSource(KEY).bernoulli(1, rate)


def test_coins_come_up_at_their_rate():
    # n = 1e6, rate .01: a fixed key; |z| < 4 would fail for 6e-5 of the keys.
    drawn = NoiseSource(KEY).bernoulli(1_000_000, 0.01).sum()
    assert abs(drawn - 10_000) < 4 * np.sqrt(9_900)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 2 * module._BLOCK + 3])
def test_as_many_integers_come_as_were_asked_for(count):
    source = NoiseSource(KEY)
    drawn = source.gaussian_integers(count, 10.0)
    assert drawn.shape == (count,)
    assert drawn.dtype == np.int64
    assert source.numbers_drawn == count


def test_no_std_means_no_noise_and_no_coins():
    source = NoiseSource(KEY)
    assert source.gaussian_integers(3, 0.0).tolist() == [0, 0, 0]
    assert source.numbers_drawn == 0
    assert source.words(1) == NoiseSource(KEY).words(1)


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf"), 2.0**57])
def test_a_std_that_does_not_fit_64_bits_is_refused(std):
    with pytest.raises(UsageError, match="coarser grid"):
        NoiseSource(KEY).gaussian_integers(1, std)


def test_a_tiny_std_gives_zeros():
    assert not NoiseSource(KEY).gaussian_integers(100, 1e-300).any()


def test_torch_functions_err_by_far_less_than_the_proof_assumes():
    uniform = NoiseSource(KEY).uniform(400)
    angle = 2 * np.pi * uniform
    for name, points in (("log", uniform), ("log", 1 - uniform * 2.0**-30), ("cos", angle), ("sin", angle)):
        found = getattr(torch, name)(torch.from_numpy(points)).numpy()
        with mp.workprec(200):
            exact = [getattr(mp, name)(mp.mpf(float(point))) for point in points]
            errors = [abs(float(mp.mpf(float(f)) - e)) for f, e in zip(found, exact, strict=True)]
        assert (np.array(errors) <= 4 * np.spacing(np.abs(found))).all(), name


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (0, 2**62), (2**63 - 1, 2**63 - 1), (2**63 - 1, 0)], ids=str
)
def test_pairs_at_the_ends_of_the_uniform_are_never_certain(first, second):
    digits = torch.tensor([[first], [second], [12345]], dtype=torch.int64)
    assert not module._candidates(digits, 1e6)[1].any()


def test_a_uniform_without_a_known_digit_is_not_rounded():
    assert module._rounded(0, 5, 2, 1.0) is None
