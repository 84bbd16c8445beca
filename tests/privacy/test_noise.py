"""The keystream, the draws made from it, and noise that a thread draws ahead."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from mpmath import mp

from privae.errors import PrivacyRefused, ResourceError, UsageError
from privae.gaussian import pairs
from privae.privacy import noise as module
from privae.privacy.mechanism import Noise
from privae.privacy.noise import NoiseSource, ahead

KEY = bytes(range(32))
CHUNK = module._CHUNK


def filled(source, *shape, std=1000.0, dtype=torch.float64):
    out = torch.full(shape, -7, dtype=dtype)
    source.fill(out, std)
    return out


def counter_mode(key, count, start=2):
    """Keystream [count] of AES-256 in counter mode, from block `start`."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(start.to_bytes(16, "big"))).encryptor()
    return stream.update(bytes(8 * count))


def test_words_are_the_aes_256_counter_mode_keystream():
    source = NoiseSource(KEY)
    drawn = np.concatenate([source.words(3), source.words(0), source.words(4)])
    assert drawn.tobytes() == counter_mode(KEY, 7)


def test_a_key_gives_way_to_the_next_words_of_its_own_keystream(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WORDS", 10)
    source = NoiseSource(KEY)
    drawn = [source.words(4), source.words(2), source.words(1)]
    stream = counter_mode(KEY, 10)
    assert np.concatenate(drawn[:2]).tobytes() == stream[:48]
    assert drawn[2].tobytes() == counter_mode(stream[48:80], 1)


def test_more_words_than_a_key_gives_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WORDS", 10)
    assert len(NoiseSource(KEY).words(6)) == 6
    with pytest.raises(ResourceError, match="in parts"):
        NoiseSource(KEY).words(7)


def test_a_key_is_secret_unless_a_test_passes_one():
    source = NoiseSource()
    assert not source.fixed
    assert NoiseSource(KEY).fixed
    filled(NoiseSource(KEY), 3)
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


@pytest.mark.parametrize("draw", [lambda s: s.words(1), lambda s: s.child(), lambda s: filled(s, 1)])
def test_a_source_is_refused_after_a_fork(monkeypatch, draw):
    source = NoiseSource(KEY)
    source._lock.acquire()  # as a thread of the parent may have held it: the child must not wait for it
    monkeypatch.setattr(os, "getpid", lambda: -1)
    refused = []

    def drawing():
        with pytest.raises(PrivacyRefused, match="fork"):
            draw(source)
        refused.append(True)

    thread = threading.Thread(target=drawing, daemon=True)
    thread.start()
    thread.join(10)
    assert refused


def test_a_child_has_the_next_32_bytes_of_its_parent_as_its_key():
    parent, twin = NoiseSource(KEY), NoiseSource(KEY)
    child = parent.child()
    assert child.words(2).tolist() == NoiseSource(twin.words(4).tobytes()).words(2).tolist()
    assert parent.words(2).tolist() == twin.words(2).tolist()
    assert child.fixed
    assert not NoiseSource().child().fixed


def test_the_numbers_of_children_count_in_all_their_ancestors():
    parent = NoiseSource(KEY)
    child = parent.child()
    filled(parent, 2)
    filled(child, 3)
    filled(child.child(), 5)
    assert (parent.numbers_drawn, child.numbers_drawn) == (10, 8)


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


@pytest.mark.parametrize("count", [0, 1, 2, 5, CHUNK, CHUNK + 3])
def test_as_many_integers_come_as_were_asked_for(count):
    source = NoiseSource(KEY)
    drawn = source.gaussian_integers(count, 10.0)
    assert drawn.shape == (count,)
    assert drawn.dtype == np.int64
    assert source.numbers_drawn == count
    assert filled(NoiseSource(KEY), count, std=10.0).tolist() == drawn.tolist()


def test_fill_writes_every_place_of_any_shape_and_layout():
    expected = NoiseSource(KEY).gaussian_integers(12, 1000.0)
    assert filled(NoiseSource(KEY), 3, 4).ravel().tolist() == expected.tolist()
    assert filled(NoiseSource(KEY), 12, dtype=torch.int64).tolist() == expected.tolist()
    wide = torch.full((4, 6), -7.0, dtype=torch.float64)
    NoiseSource(KEY).fill(wide.T[::2], 1000.0)
    assert wide.T[::2].ravel().tolist() == expected.tolist()
    assert (wide.T[1::2] == -7.0).all()
    assert filled(NoiseSource(KEY)).item() == NoiseSource(KEY).gaussian_integers(1, 1000.0)[0]


def test_fill_leaves_no_trace_of_gradients_or_inference_mode():
    source = NoiseSource(KEY)
    with torch.inference_mode():
        first = filled(source, 4)
    parameter = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    source.fill(parameter, 1000.0)
    assert parameter.is_leaf
    assert first.tolist() + parameter.tolist() == [
        *NoiseSource(KEY).gaussian_integers(4, 1000.0).tolist(),
        *filled(again(4), 4).tolist(),
    ]


def again(count):
    """The source of the key, after it filled `count` numbers."""
    source = NoiseSource(KEY)
    filled(source, count)
    return source


def test_no_std_means_no_noise_and_no_coins():
    source = NoiseSource(KEY)
    assert source.gaussian_integers(3, 0.0).tolist() == [0, 0, 0]
    assert source.numbers_drawn == 0
    assert source.words(1) == NoiseSource(KEY).words(1)


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf"), 2.0**57])
def test_a_std_that_does_not_fit_64_bits_is_refused(std):
    with pytest.raises(UsageError, match="coarser grid"):
        NoiseSource(KEY).gaussian_integers(1, std)


def test_a_std_that_float64_does_not_hold_exactly_is_refused_for_float64():
    with pytest.raises(UsageError, match="coarser grid"):
        filled(NoiseSource(KEY), 1, std=2.0**52 / 40)
    assert filled(NoiseSource(KEY), 1, std=2.0**46).item().is_integer()


def test_a_tiny_std_gives_zeros_that_are_counted():
    source = NoiseSource(KEY)
    assert not source.gaussian_integers(100, 1e-300).any()
    assert not source.gaussian_integers(100, 2.0**-8).any()
    assert source.numbers_drawn == 200
    assert not NoiseSource(KEY).gaussian_integers(100, 2.0**-7).any()


@pytest.mark.parametrize("factor", [2.0**-20, 0.9, 1 - 2.0**-30])
def test_torch_functions_err_by_far_less_than_the_proof_assumes(factor):
    uniform = (NoiseSource(KEY).words(400) >> 11) * 2.0**-53
    angle = np.pi * (2 * uniform - 1)
    cases = (("log", 1 - factor * uniform), ("log", factor * uniform), ("cos", angle), ("sin", angle))
    for name, points in (*cases, ("sqrt", uniform)):
        found = getattr(torch, name)(torch.from_numpy(points)).numpy()
        with mp.workprec(200):
            exact = [getattr(mp, name)(mp.mpf(float(point))) for point in points]
            errors = [abs(float(mp.mpf(float(f)) - e)) for f, e in zip(found, exact, strict=True)]
        limit = 1 if name == "sqrt" else 4
        assert (np.array(errors) <= limit * np.spacing(np.abs(found))).all(), name


@pytest.mark.parametrize("uniform", [0, 1, -1, 2**19, -(2**63), 2**63 - 1, -(2**63) + 1], ids=str)
def test_pairs_at_the_ends_of_the_uniform_are_never_certain(uniform):
    desk = pairs.Desk(1)
    desk.uniform[0], desk.turn[0] = uniform, 12345
    with np.errstate(all="ignore"):
        assert pairs.candidates(desk, 1e6, np.empty((2, 1))).tolist() == [0]


def test_a_uniform_without_a_known_digit_is_not_rounded():
    assert pairs.resolved(0, 5, 2, 1.0) is None
    assert pairs.resolved(-(2**127), 5, 2, 1.0) is None


def test_numbers_drawn_ahead_are_those_of_a_child_in_its_order():
    sizes = [5, CHUNK, 1, 2 * CHUNK + 3, 7]
    with ahead(NoiseSource(KEY), 1000.0, 1000) as noise:
        drawn = torch.cat([filled(noise, size) for size in sizes])
    child = NoiseSource(KEY).child()
    expected = torch.cat([filled(child, CHUNK) for _ in range(4)])
    assert torch.equal(drawn, expected[: sum(sizes)])


def test_noise_ahead_fills_any_shape_and_layout():
    with ahead(NoiseSource(KEY), 1000.0, 1) as noise:
        wide = torch.full((4, 6), -7.0, dtype=torch.float64)
        noise.fill(wide.T[::2], 1000.0)
        integers = filled(noise, 2, 2, dtype=torch.int64)
        with torch.inference_mode():
            assert filled(noise, 0).shape == (0,)
    expected = filled(NoiseSource(KEY).child(), CHUNK)
    assert wide.T[::2].ravel().tolist() == expected[:12].tolist()
    assert (wide.T[1::2] == -7.0).all()
    assert integers.ravel().tolist() == expected[12:16].tolist()


def test_both_kinds_of_noise_are_noise_and_tell_whether_their_key_is_fixed():
    source = NoiseSource()
    with ahead(source, 1000.0, 5) as noise:
        assert isinstance(noise, Noise)
        assert not noise.fixed
        filled(noise, 3)
    assert isinstance(source, Noise)
    assert source.numbers_drawn == noise.numbers_drawn >= CHUNK
    with ahead(NoiseSource(KEY), 1000.0, 5) as noise:
        assert noise.fixed


def test_at_most_the_numbers_asked_for_and_one_chunk_are_kept_ahead():
    source = NoiseSource(KEY)
    with ahead(source, 1000.0, 2 * CHUNK + 1) as noise:
        for _ in range(4):
            noise._ready.get()
        assert noise._free.empty()  # no chunk is left to draw into, however long one waits
        assert source.numbers_drawn == 4 * CHUNK


def test_the_thread_ends_with_its_block_whatever_ends_it():
    def alive():
        return [thread.name for thread in threading.enumerate() if thread.name == "privae noise"]

    threads = torch.get_num_threads()
    with ahead(NoiseSource(KEY), 1000.0, 5) as noise:
        filled(noise, 3)
        assert alive()
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == threads
    assert not alive()
    with pytest.raises(KeyboardInterrupt), ahead(NoiseSource(KEY), 1000.0, 10 * CHUNK):
        raise KeyboardInterrupt
    assert not alive()


def test_torch_keeps_its_number_of_threads_here_and_in_threads_to_come(monkeypatch):
    """Those of the background are one: a team for its short operations would get in the way of the products."""
    before, seen = torch.get_num_threads(), {}
    draw = NoiseSource._draw

    def spied(*args):
        seen[threading.current_thread().name] = torch.get_num_threads()
        draw(*args)

    monkeypatch.setattr(NoiseSource, "_draw", spied)
    try:
        torch.set_num_threads(2)
        with ahead(NoiseSource(KEY), 1000.0, 5) as noise:
            filled(noise, 3)
            filled(NoiseSource(KEY), 3)
            later = threading.Thread(target=lambda: seen.update(later=torch.get_num_threads()))
            later.start()
            later.join()
            assert torch.get_num_threads() == 2
        assert seen == {
            "MainThread": 2,
            "privae noise_0": 1,
            "privae noise": 1,
            "later": 2,
        }  # the key of a child
    finally:
        torch.set_num_threads(before)


def test_noise_ahead_is_refused_for_another_std_after_its_block_and_in_a_forked_process(monkeypatch):
    with ahead(NoiseSource(KEY), 1000.0, 5) as noise:
        with pytest.raises(UsageError, match="one std"):
            filled(noise, 1, std=999.0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(PrivacyRefused, match="fork"):
                filled(noise, 1)
    with pytest.raises(UsageError, match="one block"):
        filled(noise, 1)


def test_what_goes_wrong_in_the_thread_is_raised_by_every_later_fill(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WORDS", 10)  # less than a chunk needs
    with ahead(NoiseSource(KEY), 1000.0, 5) as noise:
        for _ in range(2):
            with pytest.raises(ResourceError, match="in parts"):
                filled(noise, 1)


def test_a_std_that_does_not_fit_is_refused_by_the_first_fill():
    with ahead(NoiseSource(KEY), 2.0**50, 5) as noise, pytest.raises(UsageError, match="coarser grid"):
        filled(noise, 1, std=2.0**50)
