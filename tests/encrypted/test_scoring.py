"""From records to scores by messages: right in every packing, and refused in one line where anything is not theirs."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from privae.ckks import container
from privae.encrypted import scoring
from privae.encrypted.keys import KeyRing
from privae.encrypted.offer import Offer, numbers_of, served
from privae.errors import ArtifactError, UsageError


@pytest.fixture(scope="module")
def asked(place, digits):
    keys = scoring.Keys.of(place.public, place.served.offer)
    records = scoring.pack(place.served.offer, place.ring, digits.x[1500:1503], 1)
    return keys, records


@pytest.mark.parametrize(("rows", "lanes"), [(1, 1), (3, 1), (40, None), (5, 0)])
def test_scores_codes_and_reconstructions_come_back_within_the_stated_error(place, digits, rows, lanes):
    known, x = place.served.offer, digits.x[1500 : 1500 + rows]
    lanes = max(known.layouts) if lanes is None else lanes
    records = container.loads(scoring.pack(known, place.ring, x, lanes).dumps(), "a", "records")
    keys = scoring.Keys.of(container.loads(place.public.dumps(), "b", "keys"), known)
    results = container.loads(scoring.score(place.served, keys, records).dumps(), "c", "results")
    found = scoring.unpack(known, place.ring, results)
    right = place.served.compiled.evaluate(numbers_of(known.schema, x))
    assert set(found) == set(known.outputs) == {"score", "codes", "reconstruction"}
    for name, values in found.items():
        assert values.shape == right[name].shape
        assert np.abs(values - right[name]).max() <= known.outputs[name].error


def dear(known):
    """The offer, where a ciphertext a feature costs twice as much as any other packing of one record."""
    return replace(known, switches={**known.switches, 0: 2 * max(known.switches.values())})


def test_the_packing_follows_from_how_many_records_there_are(place):
    known = dear(place.served.offer)
    assert known.packing(1) in known.layouts
    assert known.packing(known.parameters.slots) == 0
    assert known.packing(1, rotations=False) == 0


def test_an_offer_comes_back_and_holds_no_weights(place, tmp_path):
    known = place.served.offer
    known.write(tmp_path / "offer.json")
    assert Offer.read(tmp_path / "offer.json") == known
    text = (tmp_path / "offer.json").read_text()
    assert len(text) < 4000
    assert set(known.to_dict()) == {
        "format", "model", "schema", "parameters", "scale", "inputs", "outputs", "finish", "norm", "layouts",
        "rotations", "switches",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "privae-offer/0"}', '{"format": "privae-offer/1"}']
)
def test_offers_that_do_not_read_are_refused(text, tmp_path):
    (tmp_path / "offer.json").write_text(text)
    with pytest.raises(ArtifactError, match="offer"):
        Offer.read(tmp_path / "offer.json")


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.0}, {"scale": float("inf")}, {"scale": -1.0}, {"scale": 3.0},
        {"inputs": 0}, {"inputs": float("inf")}, {"inputs": 17},
        {"layouts": {"0": 1}}, {"layouts": {"3": 1}}, {"layouts": {str(2**40): 1}}, {"layouts": {"1": 0}},
        {"switches": {}}, {"switches": {"0": float("nan"), "1": 1.0, "128": 1.0}},
        {"rotations": {"1": [10**9], "128": []}}, {"rotations": {"1": list(range(1, 300)), "128": []}},
        {"finish": "rm"}, {"outputs": {}}, {"norm": True},
    ],
)  # fmt: skip
def test_offers_that_no_server_makes_are_refused(place, change):
    assert Offer.from_dict(place.served.offer.to_dict()) == place.served.offer
    with pytest.raises(ArtifactError, match="offer does not read"):
        Offer.from_dict({**place.served.offer.to_dict(), **change})


@pytest.mark.parametrize(
    "change", [{"level": 9}, {"width": 0}, {"error": float("inf")}, {"noise": -1.0}, {"level": float("inf")}]
)
def test_outputs_that_no_server_has_are_refused(place, change):
    stored = place.served.offer.to_dict()
    stored["outputs"] = {"score": {**stored["outputs"]["score"], **change}}
    with pytest.raises(ArtifactError, match="offer does not read"):
        Offer.from_dict(stored)
    stored["outputs"] = {"../../x": place.served.offer.to_dict()["outputs"]["score"]}
    with pytest.raises(ArtifactError, match="offer does not read"):
        Offer.from_dict(stored)


def test_half_size_and_every_answer_at_its_lowest_level(place, asked, digits):
    keys, records = asked
    parameters = place.ring.parameters
    whole = 3 * 2 * 8 * parameters.degree * (len(parameters.bits) - 1)
    assert len(records.body) < whole / 2 / 1.5  # half, in fewer bytes a residue
    results = scoring.score(place.served, keys, records)
    assert all(output.level == 0 for output in place.served.offer.outputs.values())
    assert len(results.body) < whole


def test_all_slots_of_an_answer_hold_what_was_asked_or_nothing(place, digits):
    """A reply of one record holds repetitions of its outputs, or what zeros give; no step of the circuit."""
    known = place.served.offer
    keys = scoring.Keys.of(place.public, known)
    results = scoring.score(place.served, keys, scoring.pack(known, place.ring, digits.x[1500:1501], 1))
    reader = scoring._Reader(known.parameters, results.body)
    right = place.served.compiled.circuit.evaluate(numbers_of(known.schema, digits.x[1500:1501]))
    for name, output in known.outputs.items():
        slots = place.ring.holder.decrypt(reader.whole(output.level, output.scale))
        period = 1 << (output.width - 1).bit_length()
        wanted = np.zeros(period)
        wanted[: output.width] = right[name][0]
        assert np.abs(slots - np.tile(wanted, len(slots) // period)).max() <= output.error


def changed(records, **about):
    return replace(records, about={**records.about, **about})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda r, p: changed(r, model="0" * 64), ArtifactError, "another model"),
        (lambda r, p: changed(r, rows=0), ArtifactError, "does not read"),
        (lambda r, p: changed(r, rows=True), ArtifactError, "does not read"),
        (lambda r, p: changed(r, rows="3"), ArtifactError, "does not read"),
        (lambda r, p: changed(r, lanes=3), ArtifactError, "does not read"),
        (lambda r, p: changed(r, rows=4), ArtifactError, "not as many as their header says"),
        (lambda r, p: changed(r, rows=10**15), ArtifactError, "not as many as their header says"),
        (lambda r, p: replace(r, body=r.body[:-1]), ArtifactError, "not as many as their header says"),
        (lambda r, p: replace(r, body=r.body + b"\0"), ArtifactError, "not as many as their header says"),
        (lambda r, p: replace(r, body=r.body[:-4] + b"\xff" * 4), ArtifactError, "not valid"),
        (lambda r, p: replace(r, key=p.other.name), ArtifactError, "another key"),
        (
            lambda r, p: replace(r, parameters=replace(r.parameters, degree=32768)),
            ArtifactError,
            "another key",
        ),
    ],
)
def test_records_that_are_not_what_they_say_are_refused(place, asked, change, error, says):
    keys, records = asked
    with pytest.raises(error, match=says):
        scoring.score(place.served, keys, change(records, place))


def test_results_that_are_not_what_they_say_are_refused(place, asked):
    keys, records = asked
    results = scoring.score(place.served, keys, records)
    known = place.served.offer
    for wrong, says in (
        (replace(results, body=results.body[:-1]), "fewer ciphertexts"),
        (replace(results, body=results.body + b"\0"), "more follows"),
        (changed(results, rows=4), "fewer ciphertexts"),
        (changed(results, model="0"), "another model"),
        (replace(results, key=place.other.name), "another key"),
    ):
        with pytest.raises(ArtifactError, match=says):
            scoring.unpack(known, place.ring, wrong)
    with pytest.raises(ArtifactError, match="another key"):
        scoring.unpack(known, place.other, results)


def test_keys_that_are_not_what_they_say_are_refused(place):
    known = place.served.offer
    for wrong in (
        replace(place.public, body=place.public.body[:-1] + b"x"),
        replace(place.public, key="0" * 64),
        changed(place.public, sizes=[1, 2]),
        changed(place.public, sizes="x"),
    ):
        with pytest.raises(ArtifactError, match="keys"):
            scoring.Keys.of(wrong, known)
    for end in (b"x", bytes(8)):  # more than a key, under the right name
        body = place.others.body + end
        sizes = [*place.others.about["sizes"][:-1], place.others.about["sizes"][-1] + len(end)]
        wrong = replace(changed(place.others, sizes=sizes), body=body, key=hashlib.sha256(body).hexdigest())
        with pytest.raises(ArtifactError, match="keys do not read"):
            scoring.Keys.of(wrong, known)
    foreign = replace(place.public, parameters=replace(place.public.parameters, degree=32768))
    with pytest.raises(ArtifactError, match="other parameters"):
        scoring.Keys.of(foreign, known)


def test_a_key_that_rotates_nothing_packs_a_ciphertext_a_feature(place, digits):
    known = dear(place.served.offer)
    assert scoring.pack(known, place.ring, digits.x[:1]).about["lanes"] != 0
    assert scoring.pack(known, place.other, digits.x[:1]).about["lanes"] == 0


def test_without_rotation_keys_records_come_one_ciphertext_a_feature(place, digits):
    known = place.served.offer
    keys = scoring.Keys.of(place.others, known)
    with pytest.raises(UsageError, match="--batch"):
        scoring.score(place.served, keys, scoring.pack(known, place.other, digits.x[:1], 1))


def test_a_holder_refuses_what_it_cannot_pack(place, digits):
    known = place.served.offer
    with pytest.raises(UsageError, match="no records"):
        scoring.pack(known, place.ring, digits.x[:0])
    with pytest.raises(UsageError, match="no such packing"):
        scoring.pack(known, place.ring, digits.x[:1], 3)
    with pytest.raises(UsageError, match=r"uint8 \[n, 4, 4\]"):
        scoring.pack(known, place.ring, digits.x[:1, :3])
    smaller = replace(known, parameters=replace(known.parameters, degree=16384))
    with pytest.raises(ArtifactError, match="other parameters"):
        scoring.pack(smaller, place.ring, digits.x[:1])


def test_two_encryptions_of_a_record_share_no_byte_pattern(place, digits):
    known = place.served.offer
    one, other = (scoring.pack(known, place.ring, digits.x[:1], 1).body for _ in range(2))
    same = np.frombuffer(one, np.uint8) == np.frombuffer(other, np.uint8)
    assert same.mean() < 0.05


def test_a_polynomial_network_is_scored_from_records_to_the_squared_error(square, digits):
    model = served(square.fitted_, square.identity)
    ring, public = KeyRing.made(model.offer.parameters)
    x = digits.x[1500:1510]
    keys = scoring.Keys.of(public, model.offer)
    results = scoring.score(model, keys, scoring.pack(model.offer, ring, x, 0))
    found = scoring.unpack(model.offer, ring, results)["score"]
    right = model.compiled.evaluate(numbers_of(model.offer.schema, x))["score"]
    assert np.abs(found - right).max() <= model.offer.outputs["score"].worst
    assert np.abs(found - right).max() < 1e-3
