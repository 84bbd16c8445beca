"""The door: what is wrapped of the library, and its arithmetic against that on plain numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

from privae.ckks import exact
from privae.ckks.clear import Clear
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import Ciphertext, Evaluation, Holder, Public, primes_of
from privae.errors import ArtifactError

PARAMETERS = Parameters(8192, (50, 30, 30, 50))
SCALE = 2.0**30


@pytest.fixture(scope="module")
def holder():
    return Holder(PARAMETERS)


@pytest.fixture(scope="module")
def server(holder):
    return Evaluation(PARAMETERS, holder.relinearization_key(), holder.galois_keys([1, 3]))


def test_columns_that_are_not_contiguous_encode_right(holder):
    table = np.arange(8.0).reshape(4, 2)
    found = holder.decrypt(holder.encrypt(table[:, 1], SCALE))
    assert np.abs(found[:4] - table[:, 1]).max() < 1e-5
    assert np.abs(found[4:]).max() < 1e-5


def test_residues_are_those_of_the_library_there_and_back(holder):
    value = holder.encrypt(np.arange(5.0), SCALE)
    again = Ciphertext(PARAMETERS, SCALE, raw=value.residues)
    assert (again.level, again.parts) == (value.level, value.parts) == (2, 2)
    assert again.object.to_string() == value.object.to_string()
    assert again.object.scale() == SCALE


def test_residues_beyond_a_prime_are_refused_by_the_library(holder):
    wrong = holder.encrypt(np.ones(1), SCALE).residues.copy()
    wrong[0, 1, 0] = 2**63
    with pytest.raises(ArtifactError, match="not valid"):
        _ = Ciphertext(PARAMETERS, SCALE, raw=wrong).object


def test_each_operation_is_that_of_the_twin(holder, server):
    twin = Clear(PARAMETERS, primes_of(PARAMETERS))
    numbers = np.random.default_rng(0).normal(size=(2, PARAMETERS.slots))

    def both(work):
        real = work(server, *(holder.encrypt(row, SCALE) for row in numbers))
        clear = work(twin, *(twin.encrypt(row, SCALE) for row in numbers))
        assert (real.level, real.scale, real.parts) == (clear.level, clear.scale, clear.parts)
        off = np.abs(holder.decrypt(real) - clear.exact)
        assert (off <= clear.error).all()
        assert off.max() > clear.error.max() / 1000  # a bound that says something

    prime = float(twin.primes[-1])
    both(lambda on, a, b: on.add(a, b))
    both(lambda on, a, b: on.multiply(a, b))
    both(lambda on, a, b: on.rescale(on.relinearize(on.square(a)), SCALE**2 / prime))
    both(lambda on, a, b: on.lowered(a, 1))
    both(lambda on, a, b: on.rotate(on.rotate(a, 3), 1))
    both(lambda on, a, b: on.times(a, on.encode(numbers[1], prime, 2)))
    both(lambda on, a, b: on.plus(a, numbers[1]))
    weights = np.array([[2.0, -3.0]])
    both(lambda on, a, b: on.combine([a, b], weights, SCALE, np.array([0.5]))[0])


def test_scales_and_levels_that_differ_are_not_added(holder, server):
    one, other = holder.encrypt(np.ones(1), SCALE), holder.encrypt(np.ones(1), 2 * SCALE)
    with pytest.raises(AssertionError, match="scales differ"):
        server.add(one, other)
    with pytest.raises(AssertionError, match="levels differ"):
        server.add(one, server.lowered(one, 1))
    with pytest.raises(AssertionError, match="scales differ"):
        server.rescale(server.square(one), SCALE / 2)


def test_rotations_need_a_key_of_their_own(holder, server):
    value = holder.encrypt(np.arange(8.0), SCALE)
    assert np.abs(holder.decrypt(server.rotate(value, 3))[:4] - np.arange(3.0, 7.0)).max() < 1e-3
    with pytest.raises((RuntimeError, ValueError)):
        server.rotate(value, 2)


def test_keys_that_are_none_are_refused(holder):
    other = Holder(Parameters(4096, (30, 30, 40)))
    for wrong in (b"", b"x" * 100, other.relinearization_key()):
        with pytest.raises(ArtifactError, match="evaluation keys"):
            Evaluation(PARAMETERS, wrong)
        with pytest.raises(ArtifactError, match="public key"):
            Public(PARAMETERS, wrong)
        with pytest.raises(ArtifactError, match="secret key"):
            Holder(PARAMETERS, wrong)


def test_a_secret_key_is_not_printed_and_comes_back(holder):
    assert repr(holder) == "Holder(degree=8192, levels=2)"
    again = Holder(PARAMETERS, holder.secret)
    assert np.abs(again.decrypt(holder.encrypt(np.ones(3), SCALE))[:3] - 1).max() < 1e-5


def test_a_zero_of_the_public_key_changes_a_ciphertext_and_not_its_numbers(holder, server):
    public, value = Public(PARAMETERS, holder.public_key()), holder.encrypt(np.ones(3), SCALE)
    fresh = server.add(value, Ciphertext(PARAMETERS, SCALE, raw=public.zero(2).residues))
    assert (fresh.residues != value.residues).mean() > 0.99
    assert np.abs(holder.decrypt(fresh)[:3] - 1).max() < 1e-3


def test_a_seeded_ciphertext_is_half_and_whole_again(holder):
    value = holder.encrypt(np.arange(9.0), SCALE)
    small = exact.Seeded.of(holder, value)
    whole = small.expanded(PARAMETERS)
    assert small.first.size * 2 == value.residues.size
    assert np.abs(holder.decrypt(whole)[:9] - np.arange(9.0)).max() < 1e-5
    assert exact.Seeded.of(holder, value).seed != small.seed
    assert (whole.residues[1] != value.residues[1]).any()


def test_uniform_residues_are_below_their_prime_and_of_a_seed():
    prime = primes_of(PARAMETERS)[1]
    drawn = exact.uniform(bytes(32), prime, 100_000)
    assert drawn.max() < prime
    assert abs(drawn.mean() / prime - 0.5) < 0.01
    assert (exact.uniform(bytes(32), prime, 1000) == drawn[:1000]).all()
    assert (exact.uniform(b"\1" * 32, prime, 1000) != drawn[:1000]).any()


def test_integers_and_their_sums_are_exact():
    parameters = Parameters(8192, (50, 50, 50, 60), base=3)
    holder = Holder(parameters)
    x = np.random.default_rng(0).integers(-(2**40), 2**40, 8192)
    one = exact.encrypted(holder, x, 2**34)
    other = exact.encrypted(Public(parameters, holder.public_key()), x[::-1], 2**34)
    assert (exact.decrypted(holder, exact.added([one, other, one])) == 2 * x + x[::-1]).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ["encrypted", "serve", "m.privae"],
        ["encrypted", "ask", "http://localhost:9", "x.npz", "--key", "a.key", "-o", "a.csv"],
    ],
)
def test_without_the_extra_a_line_names_it(arguments):
    code = (
        "import sys; sys.modules['seal'] = None\n"
        "from privae.cli import main\n"
        f"raise SystemExit(main({arguments}))"
    )
    words = {**os.environ, "PRIVAE_PASSPHRASE": "correct horse battery staple"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=words
    )
    assert done.returncode == 2
    assert done.stderr == "privae: ciphertexts need an extra: pip install 'privae[encrypted]'\n"
