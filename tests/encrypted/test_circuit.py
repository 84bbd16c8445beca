"""Circuits: both packings give what the clear circuit gives, within the predicted bound, on exact levels and scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.ckks.clear import Clear
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import Evaluation, Holder, primes_of
from privae.encrypted import features, samples
from privae.encrypted.circuit import Affine, Circuit, Inner, Schedule, Square, parameters_for
from privae.errors import UsageError

PARAMETERS = Parameters(8192, (36, *(24,) * 6, 36))
SCALE = 2.0**24


@pytest.fixture(scope="module")
def holder():
    return Holder(PARAMETERS)


def circuit_of(seed, inputs, hidden, latent):
    """An encoder with a square, a latent code, a decoder with a square, and an inner product with the input."""
    draw = np.random.default_rng(seed)

    def weights(rows, columns):
        return draw.normal(size=(rows, columns)) / np.sqrt(columns)

    steps = (
        Affine(((0, weights(hidden, inputs)),), draw.normal(size=hidden)),
        Square(1),
        Affine(((2, weights(latent, hidden)),), draw.normal(size=latent)),
        Affine(((3, weights(hidden, latent)), (0, weights(hidden, inputs))), draw.normal(size=hidden)),
        Square(4),
        Inner(4, 5, (0, draw.normal(size=inputs)), 0.5),
    )
    low, high = -np.ones(inputs), np.ones(inputs)
    return Circuit(low, high, steps, {"codes": 3, "hidden": 5, "score": 6})


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(2, 17), st.integers(1, 9))
def test_both_packings_are_the_clear_circuit_within_the_predicted_bound(seed, inputs, hidden, latent):
    holder = Holder(PARAMETERS)
    circuit = circuit_of(seed, inputs, hidden, latent)
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    records = np.random.default_rng(seed).uniform(-1, 1, (5, inputs))
    right, wanted = circuit.evaluate(records), tuple(circuit.outputs)

    server = Evaluation(PARAMETERS, holder.relinearization_key())
    twin = Clear(PARAMETERS, primes_of(PARAMETERS), slots=8)
    columns = [np.ascontiguousarray(column) for column in records.T]
    real = samples.run(server, schedule, [holder.encrypt(c, SCALE) for c in columns], wanted)
    clear = samples.run(twin, schedule, [twin.encrypt(c, SCALE) for c in columns], wanted)
    for name in wanted:
        value = circuit.outputs[name]
        for i, (a, b) in enumerate(zip(real[name], clear[name], strict=True)):
            assert (a.level, a.parts) == (schedule.levels[value], 2) == (b.level, b.parts)
            assert a.scale == b.scale == pytest.approx(schedule.scales[value], rel=1e-12)
            assert np.abs(b.exact[:5] - right[name][:, i]).max() < 1e-3  # rounded weights
            assert (np.abs(holder.decrypt(a)[:5] - b.exact[:5]) <= b.error[:5]).all()

    for lanes in (1, features.most_lanes(circuit, PARAMETERS.slots)):
        layout = features.Layout.of(circuit, PARAMETERS.slots, lanes)
        program = features.Program(schedule, layout)
        server = Evaluation(
            PARAMETERS, holder.relinearization_key(), holder.galois_keys(sorted(program.rotations()))
        )
        twin, packed, count = (
            Clear(PARAMETERS, primes_of(PARAMETERS)),
            layout.packed(records[:lanes]),
            min(lanes, 5),
        )
        real = program.run(server, holder.encrypt(packed, SCALE), wanted)
        clear = features.Program(schedule, layout).run(twin, twin.encrypt(packed, SCALE), wanted)
        for name in wanted:
            a, b, width = real[name], clear[name], circuit.width(circuit.outputs[name])
            assert (a.level, a.parts) == (schedule.levels[circuit.outputs[name]], 2) == (b.level, b.parts)
            assert np.abs(layout.read(b.exact, width, count) - right[name][:count]).max() < 1e-3
            assert (np.abs(holder.decrypt(a) - b.exact) <= b.error).all()  # in all slots


def test_ranges_hold_every_record_within_its_bounds():
    circuit = circuit_of(1, 6, 5, 2)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T
    inside = np.random.default_rng(0).uniform(-1, 1, (500, 6))
    records = np.vstack([corners, inside])
    largest = circuit.largest()
    for name, found in circuit.evaluate(records).items():
        assert np.abs(found).max() <= largest[circuit.outputs[name]]


def test_parameters_are_the_smallest_and_answers_the_lowest_that_hold():
    draw = np.random.default_rng(0)
    maps = Affine(((0, draw.normal(size=(3, 4))),), np.zeros(3))
    small = Circuit(np.zeros(4), np.ones(4), (maps,), {"codes": 1})
    made = parameters_for(small)
    assert (made.degree, made.levels) == (4096, 1)
    deep = Circuit(
        np.zeros(4), np.ones(4), (maps, *(Square(i) for i in range(1, 7))), {"codes": 1, "score": 7}
    )
    made = parameters_for(deep)
    schedule = Schedule(deep, made, primes_of(made), SCALE)
    assert made.degree >= 16384
    assert schedule.lowest(1) == 0 < schedule.levels[1]
    assert schedule.lowest(7) == schedule.levels[7] == 0


def test_what_does_not_fit_is_refused_with_what_it_would_take():
    steps = tuple(Square(i) for i in range(30))
    with pytest.raises(UsageError, match=r"30 levels of 900 bits .* more than degree 32768 allows"):
        parameters_for(Circuit(np.zeros(1), np.ones(1), steps, {"score": 30}))
    with pytest.raises(UsageError, match="fast, standard, precise"):
        parameters_for(Circuit(np.zeros(1), np.ones(1), steps, {"score": 30}), "exact")


def test_dense_bias_dense_is_right_where_a_peer_is_wrong():
    """`mm + bias + mm` of TenSEAL 0.3.18 is off by 1 in outputs of order 1 (issues 240 and 462 of its repository)."""
    draw = np.random.default_rng(5)
    steps = (
        Affine(((0, draw.normal(size=(16, 40)) / 6),), draw.normal(size=16)),
        Affine(((1, draw.normal(size=(4, 16)) / 4),), draw.normal(size=4)),
    )
    circuit = Circuit(np.zeros(40), np.ones(40), steps, {"codes": 2})
    # the encryption's own noise has a spread of 1e-4 here, which the bound is ten times
    parameters, scale = Parameters(8192, (42, 30, 30, 30, 42)), 2.0**30
    holder, schedule = Holder(parameters), Schedule(circuit, parameters, primes_of(parameters), scale)
    program = features.Program(schedule, features.Layout.of(circuit, parameters.slots, 1))
    server = Evaluation(parameters, None, holder.galois_keys(sorted(program.rotations())))
    record = draw.random((1, 40))
    found = program.run(server, holder.encrypt(program.layout.packed(record), scale), ("codes",))["codes"]
    assert (
        np.abs(program.layout.read(holder.decrypt(found), 4, 1) - circuit.evaluate(record)["codes"]).max()
        < 1e-3
    )


def test_a_rotation_key_serves_this_program_and_no_more():
    circuit = circuit_of(0, 40, 16, 4)
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    program = features.Program(schedule, features.Layout.of(circuit, PARAMETERS.slots, 1))
    used = set()

    class Counting(Clear):
        def rotate(self, value, steps):
            used.update({steps} - {0})
            return super().rotate(value, steps)

    twin = Counting(PARAMETERS, primes_of(PARAMETERS))
    program.run(twin, twin.encrypt(np.zeros(4), SCALE), tuple(circuit.outputs))
    assert used == program.rotations()


def test_no_slot_of_a_reply_holds_more_than_was_asked_whatever_was_packed():
    """Who fills all slots on purpose gets as many numbers as outputs, repeated, and zeros beside them; no more."""
    circuit = circuit_of(0, 21, 13, 3)
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    for lanes in (1, 4):
        layout = features.Layout.of(circuit, PARAMETERS.slots, lanes)
        twin = Clear(PARAMETERS, primes_of(PARAMETERS))
        anything = np.random.default_rng(1).uniform(-1, 1, PARAMETERS.slots)
        found = features.Program(schedule, layout).run(
            twin, twin.encrypt(anything, SCALE), tuple(circuit.outputs)
        )
        for name, value in circuit.outputs.items():
            width = circuit.width(value)
            table = found[name].exact.reshape(-1, features.power(width), lanes)
            assert np.abs(table - table[0]).max() < 1e-9
            assert not table[0, width:].any()
            assert table[0, :width].all()


def test_outputs_and_diagonals_of_zeros_are_computed(holder):
    """The library refuses ciphertexts without randomness: those that a product with zeros would be."""
    draw = np.random.default_rng(5)
    first = draw.normal(size=(9, 5))
    first[:, 1:] = 0.0  # most diagonals are zero
    dead = np.zeros((9, 9))
    dead[3, 4] = 1.0
    steps = (Affine(((0, first),), draw.normal(size=9)), Affine(((1, dead),), draw.normal(size=9)), Square(2))
    none = (*steps, Affine(((3, np.zeros((2, 9))),), np.ones(2)), Square(4))
    circuit = Circuit(np.zeros(5), np.ones(5), none, {"codes": 3, "score": 5})
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    record, wanted = draw.random((1, 5)), ("codes", "score")
    right = circuit.evaluate(record)
    for lanes in (1, features.most_lanes(circuit, PARAMETERS.slots)):
        program = features.Program(schedule, features.Layout.of(circuit, PARAMETERS.slots, lanes))
        keys = holder.relinearization_key(), holder.galois_keys(sorted(program.rotations()))
        packed = holder.encrypt(program.layout.packed(record), SCALE)
        found = program.run(Evaluation(PARAMETERS, *keys), packed, wanted)
        for name in wanted:
            width = circuit.width(circuit.outputs[name])
            assert (
                np.abs(program.layout.read(holder.decrypt(found[name]), width, 1) - right[name]).max() < 1e-2
            )
    server = Evaluation(PARAMETERS, holder.relinearization_key())
    columns = [holder.encrypt(np.array([number]), SCALE) for number in record[0]]
    found = samples.run(server, schedule, columns, wanted)
    for name in wanted:
        values = [holder.decrypt(value)[0] for value in found[name]]
        assert np.abs(np.array(values) - right[name][0]).max() < 1e-2


def test_the_input_is_mapped_before_it_is_squared():
    circuit = Circuit(np.zeros(5), np.ones(5), (Square(0),), {"score": 1})
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    with pytest.raises(AssertionError, match="mapped before"):
        features.Program(schedule, features.Layout.of(circuit, PARAMETERS.slots, 1))
