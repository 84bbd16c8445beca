"""Law: other accountants give the same figures: one written here, and Opacus' PRV and RDP where it is installed.

The one written here shares nothing with dp_accounting: cell probabilities of the privacy loss from the normal
distribution function, placed at the middle of their cells (ours rounds up), and one power of their transform.
"""

from functools import lru_cache

import numpy as np
import pytest
from scipy.special import ndtr

from privae.privacy.accountant import calibrate, epsilon
from privae.privacy.mechanism import Event

CELL, HALF = 2.0**-10, 2**14  # losses of one step, and their sum, lie within +-16
CASES = [  # rate, noise multiplier, steps, delta
    (0.01, 1.0, 300, 1e-5),
    (2048 / 60_000, 2.0, 200, 1e-5),
    (0.1, 4.0, 100, 1e-6),
]
OPACUS_TALKS = pytest.mark.filterwarnings("ignore:.*alpha:UserWarning")  # of the orders that it tries


@pytest.fixture(scope="module")
def opacus():
    """A function of (accountant, noise multiplier, rate, steps, delta): the epsilon that Opacus states."""
    accountants = pytest.importorskip("opacus.accountants", exc_type=ImportError)

    def stated(name, multiplier, rate, steps, delta):
        accountant = accountants.create_accountant(name)
        accountant.history = [(multiplier, rate, steps)]
        return accountant.get_epsilon(delta)

    return stated


def one_step(rate: float, multiplier: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the loss ln((1 - q) + q e^((2x - 1) / 2 s^2)) by cells: x drawn with the unit, and without."""
    edges = (np.arange(-HALF, HALF + 1) - 0.5) * CELL
    inside = np.maximum(np.expm1(edges) + rate, 0.0) / rate
    with np.errstate(divide="ignore"):
        x = multiplier**2 * np.log(inside) + 0.5
    without = ndtr(x / multiplier)
    present = (1 - rate) * without + rate * ndtr((x - 1) / multiplier)
    return np.diff(present), np.diff(without)


@lru_cache(maxsize=2)
def sums(rate: float, multiplier: float, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Losses and probabilities of the sum over the steps, for a unit that leaves and for one that comes."""
    present, without = one_step(rate, multiplier)
    found = []
    for cells in (present, np.roll(without[::-1], 1)):
        # cells are placed so that loss 0 is the first one; the transform is then that of a sum on a circle
        total = np.fft.irfft(np.fft.rfft(np.fft.ifftshift(cells)) ** steps, 2 * HALF)
        found.append((np.arange(-HALF, HALF) * CELL, np.fft.fftshift(total)))
    return found


def delta_of(rate: float, multiplier: float, steps: int, target: float) -> float:
    return max(
        float((cells * -np.expm1(np.minimum(target - losses, 0.0))).sum())
        for losses, cells in sums(rate, multiplier, steps)
    )


def bisected(excess, low: float, high: float) -> float:
    """Where a falling function crosses zero."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


@pytest.mark.parametrize(("rate", "multiplier", "steps", "delta"), CASES)
def test_epsilon_is_that_of_an_accountant_written_here(rate, multiplier, steps, delta):
    other = bisected(lambda value: delta_of(rate, multiplier, steps, value) - delta, 0.0, 10.0)
    ours = epsilon([Event(multiplier, rate, steps)], delta)
    assert other * (1 - 1e-3) <= ours <= other * 1.01


@pytest.mark.parametrize(("rate", "multiplier", "steps", "delta"), CASES)
def test_noise_for_an_epsilon_is_that_of_an_accountant_written_here(rate, multiplier, steps, delta):
    target = epsilon([Event(multiplier, rate, steps)], delta, fine=False)
    ours = calibrate(target, delta, lambda noise: [Event(noise, rate, steps)])
    other = bisected(lambda noise: delta_of(rate, noise, steps, target) - delta, 0.5, 8.0)
    assert ours == pytest.approx(other, rel=0.01)


def test_the_accountant_written_here_knows_the_gaussian_mechanism():
    """Everybody in every step: the closed form."""
    one = Event(6.0, 1.0, 9)
    target = epsilon([one], 1e-5)
    assert delta_of(1.0, 6.0, 9, target) == pytest.approx(1e-5, rel=0.02)


@OPACUS_TALKS
@pytest.mark.parametrize(("rate", "multiplier", "steps", "delta"), CASES)
def test_opacus_accountants_stand_above_ours_in_order(opacus, rate, multiplier, steps, delta):
    ours = epsilon([Event(multiplier, rate, steps)], delta)
    prv, rdp = (opacus(name, multiplier, rate, steps, delta) for name in ("prv", "rdp"))
    assert ours <= prv <= rdp
    assert prv <= ours + 0.02  # it states an error of 0.01


@OPACUS_TALKS
@pytest.mark.parametrize(("rate", "multiplier", "steps", "delta"), CASES)
def test_opacus_needs_the_same_noise_for_the_same_epsilon_to_one_percent(
    opacus, rate, multiplier, steps, delta
):
    target = epsilon([Event(multiplier, rate, steps)], delta, fine=False)
    ours = calibrate(target, delta, lambda noise: [Event(noise, rate, steps)])
    assert (
        opacus("prv", 1.01 * ours, rate, steps, delta)
        <= target
        < opacus("prv", 0.99 * ours, rate, steps, delta)
    )
    assert opacus("rdp", ours, rate, steps, delta) > target
