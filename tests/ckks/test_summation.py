"""One sum on ciphertexts: exact, whoever falls out; unreadable without the key; refused if it is anything else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.ckks import exact, summation
from privae.ckks.bits import Form, factor_of, parameters_for
from privae.ckks.scheme import Ciphertext, Holder, primes_of
from privae.ckks.summation import Gathering, Party, name_of, told
from privae.errors import ProtocolError, UsageError
from privae.federated.round import Circle

NAMES = ("ares", "bion", "ceto", "doris", "eris", "faun")
KEY = bytes(range(32))
EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def parties_of(count=4, need=2, numbers=5, word=4, key=KEY):
    circle = Circle(NAMES[:count], {}, 1, need, "study/0/0")
    form = Form(count, numbers, word)
    return circle, {name: Party(circle, name, form, key) for name in circle.names}


def words_of(names, numbers, word, seed=3):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2**64 - 1, (len(names), numbers), dtype=np.uint64, endpoint=True)
    rows[:, : len(EXTREMES)] = np.array(EXTREMES, np.uint64)[: min(numbers, len(EXTREMES))]
    return {name: row.astype(f"<u{word}") for name, row in zip(names, rows, strict=True)}


def answers_of(parties, words):
    return {name: one.contribution(words[name], name.encode() * 8) for name, one in parties.items()}


def gathered(circle, parties, words, among=None):
    """A sum up to the stage that decrypts it, and what each party sent."""
    one = Gathering(circle, parties["ares"].form.count, parties["ares"].form.word)
    sent = answers_of(parties, words)
    for name in among or circle.names:
        one.take(name, sent[name])
    assert one.advance()
    return one, sent


def decrypt(one, parties, sent, among=None):
    for name, request in one.requests().items():
        if among is None or name in among:
            own = sent[name][0]["seed"]
            one.take(name, told(parties[name].decrypted(request, one.body, own), request))


@st.composite
def troubles(draw):
    """How many parties, who is lost at which stage, the numbers and their words."""
    count = draw(st.integers(2, 6))
    lost = [draw(st.sets(st.sampled_from(NAMES[:count]), max_size=count - 1)) for _ in range(2)]
    word, numbers = draw(st.sampled_from([4, 8])), draw(st.integers(1, 20))
    rows = draw(
        st.lists(
            st.lists(
                st.one_of(st.sampled_from(EXTREMES), st.integers(0, 2**64 - 1)),
                min_size=numbers,
                max_size=numbers,
            ),
            min_size=count,
            max_size=count,
        )
    )
    return count, lost, word, np.array(rows, np.uint64).astype(f"<u{word}")


@settings(max_examples=40, deadline=None)
@given(troubles())
def test_a_sum_is_exact_over_those_who_came_whoever_is_away(trouble) -> None:
    count, (late, away), word, rows = trouble
    circle, parties = parties_of(count, 1, rows.shape[1], word)
    words = dict(zip(circle.names, rows, strict=True))
    came = [name for name in circle.names if name not in late]
    one, sent = gathered(circle, parties, words, came)
    assert one.members == tuple(came)
    here = [name for name in came if name not in away]
    killed, one = one, Gathering(circle, one.count, word)
    one.restore(json.loads(json.dumps(killed.state())), killed.total.tobytes())
    decrypt(one, parties, sent, here)
    if not one.advance():  # who is asked for a part is away: another one is
        decrypt(one, parties, sent, here)
        one.advance()
    assert one.done == bool(here)
    if here:
        plain = np.zeros(rows.shape[1], f"<u{word}")
        for name in came:
            plain += words[name]
        assert one.total.tolist() == plain.tolist()
        assert one.requests() == {}
        assert not one.advance()
        assert one.body == b""


def test_too_few_contributions_make_no_sum() -> None:
    circle, parties = parties_of(4, need=3)
    words = words_of(circle.names, 5, 4)
    sent, one = answers_of(parties, words), Gathering(circle, 5, 4)
    for name in ("ares", "bion"):
        one.take(name, sent[name])
    assert not one.advance()
    one.take("doris", sent["doris"])
    assert not one.advance(waiting=["ceto"])
    assert one.advance()
    with pytest.raises(ProtocolError, match="needs 3 sites"):
        parties["ares"].members_of({"members": ["ares", "bion"]})


def test_the_same_words_give_the_same_bytes_and_others_other_errors_and_seeds() -> None:
    circle, parties = parties_of()
    words = words_of(circle.names, 5, 4)["ares"]
    party, coins = parties["ares"], bytes(32)
    assert party.contribution(words, coins) == party.contribution(words.copy(), coins)
    other = party.contribution(words + np.uint32(1), coins)
    assert other[0] != party.contribution(words, coins)[0]
    assert other[0] != party.contribution(words + np.uint32(1), b"c" * 32)[0]


def test_what_the_adder_sees_is_uniform_and_another_key_opens_nothing() -> None:
    circle, parties = parties_of(2, numbers=8192)
    zeros = np.zeros(8192, "<u4")
    form = parties["ares"].form
    seen = form.read(parties["ares"].contribution(zeros, bytes(32))[1])
    share = np.histogram(seen, bins=8, range=(0, form.prime))[0] / len(seen)
    assert share == pytest.approx(1 / 8, abs=0.02)
    one, sent = gathered(circle, parties, {"ares": zeros, "bion": zeros})
    stranger = replace(parties["ares"], key=b"k" * 32)
    with pytest.raises(ProtocolError, match="not the sum"):
        stranger.decrypted(one.requests()["ares"], one.body, sent["ares"][0]["seed"])
    elsewhere = replace(parties["ares"], circle=replace(circle, context="study/1/0"))
    with pytest.raises(ProtocolError, match="not the sum"):
        elsewhere.decrypted(one.requests()["ares"], one.body, sent["ares"][0]["seed"])


@pytest.mark.parametrize(
    "change", ["one number", "another set", "a seed", "one twice", "own", "left out", "fields"]
)
def test_what_is_not_the_sum_over_the_set_is_not_decrypted(change) -> None:
    circle, parties = parties_of()
    one, sent = gathered(circle, parties, words_of(circle.names, 5, 4))
    party, own, body = parties["ares"], sent["ares"][0]["seed"], one.body
    request = json.loads(json.dumps(one.requests()["ares"]))
    if change == "one number":
        body = changed(one, 2, factor_of(4))
    elif change == "another set":
        request["members"].remove("doris")
        del request["seeds"]["doris"]
    elif change == "a seed":
        request["seeds"]["bion"] = "00" * 32
    elif change == "one twice":
        request["seeds"]["bion"] = request["seeds"]["ceto"]
    elif change == "own":
        request["seeds"]["ares"], request["seeds"]["bion"] = (request["seeds"][n] for n in ("bion", "ares"))
    elif change == "left out":
        request["members"].remove("ares")
    else:
        request["seeds"] = list(request["seeds"])
    with pytest.raises(ProtocolError):
        party.decrypted(request, body, own)
    party.decrypted(one.requests()["ares"], one.body, own)


def changed(one, index, by):
    """The body of a sum, one of whose coefficients was changed."""
    total = one.total.copy()
    total[index] = (int(total[index]) + by) % one.form.prime
    return one.form.written(total)


@pytest.mark.parametrize("by", [1, -1, 20, 84, 85, 1000, 2**31 - 1])
def test_a_change_is_refused_alike_whether_or_not_rounding_would_take_it_away(by) -> None:
    """No oracle: were one within the noise decrypted, the refusals of others would tell the noise, and so the key."""
    circle, parties = parties_of()
    one, sent = gathered(circle, parties, words_of(circle.names, 5, 4))
    party, own, said = parties["ares"], sent["ares"][0]["seed"], set()
    for index in range(len(one.total)):  # checks, too
        with pytest.raises(ProtocolError) as caught:
            party.decrypted(one.requests()["ares"], changed(one, index, by), own)
        said.add(str(caught.value))
    assert said == {summation.REFUSAL}


def test_what_is_refused_is_refused_before_the_key_of_the_sum_is_in_use(monkeypatch) -> None:
    circle, parties = parties_of()
    one, sent = gathered(circle, parties, words_of(circle.names, 5, 4))

    def used(self, random):
        raise AssertionError("decrypted")

    monkeypatch.setattr(Party, "_hidden", used)
    own, request = sent["ares"][0]["seed"], one.requests()["ares"]
    with pytest.raises(ProtocolError, match="one request a sum"):
        parties["ares"].decrypted(request, changed(one, 0, 1), own)
    with pytest.raises(AssertionError, match="decrypted"):
        parties["ares"].decrypted(request, one.body, own)


def test_checks_are_uniform_whatever_they_are_of_and_no_two_have_the_same_weights() -> None:
    _, parties = parties_of(numbers=1)
    party, prime = parties["ares"], parties["ares"].form.prime
    seeds = [bytes([i % 256, i // 256]) * 16 for i in range(1000)]
    found = np.stack([party._checks(np.ones(1, np.uint64), [seed]) for seed in seeds])
    assert len(np.unique(found)) == found.size
    assert found.mean(0) / prime == pytest.approx(np.full(3, 0.5), abs=0.05)
    assert len(set(party._checks(np.ones(1, np.uint64), []).tolist())) == 3
    large = np.full(2**16, prime - 1, np.uint64)
    assert summation._sum_of(large) == 2**16 * (prime - 1)
    assert summation._sum_of(np.full(2**16, 2**50 - 1, np.uint64)) == 2**16 * (2**50 - 1)


def test_one_partys_own_numbers_are_not_decrypted_as_a_sum() -> None:
    circle, parties = parties_of(need=1)
    one, sent = gathered(circle, parties, words_of(circle.names, 5, 4))
    single, party = sent["bion"][1], parties["ares"]
    request = one.requests()["ares"] | {"members": ["bion"], "seeds": {"bion": sent["bion"][0]["seed"]}}
    with pytest.raises(ProtocolError, match="leaves this site out"):
        party.decrypted(request, single, sent["ares"][0]["seed"])
    with pytest.raises(ProtocolError, match="not the sum"):
        party.decrypted(one.requests()["ares"], single, sent["ares"][0]["seed"])


@pytest.mark.parametrize("body", [b"", b"\xff" * 43, b"\0" * 200, None])
def test_ciphertexts_that_do_not_read_are_refused(body) -> None:
    circle, parties = parties_of()
    sent = answers_of(parties, words_of(circle.names, 5, 4))
    good = sent["bion"][1]
    raw = good[:-1] if body is None else b"\xff" * len(good) if body.startswith(b"\xff") else body
    one = Gathering(circle, 5, 4)
    with pytest.raises(ProtocolError, match="ciphertext"):
        one.take("bion", (sent["bion"][0], raw))
    for seed in (None, 7, "xy", "ab", "ab" * 33):
        with pytest.raises(ProtocolError, match="seed"):
            one.take("bion", ({"seed": seed}, good))
    one.take("bion", sent["bion"])
    with pytest.raises(ProtocolError, match="another site"):
        one.take("ceto", (sent["bion"][0], sent["ceto"][1]))
    one.take("bion", ({}, b""))  # a second answer changes nothing
    one.take("nobody", ({}, b""))
    assert one.answers == {"bion": sent["bion"]}


def test_parties_that_tell_of_different_sums_make_none_until_they_agree() -> None:
    circle, parties = parties_of()
    one, sent = gathered(circle, parties, words_of(circle.names, 5, 4))
    decrypt(one, parties, sent, ["ares", "bion"])
    hashes, body = told(np.zeros(5, "<u4"), one.requests()["doris"])
    for wrong in (hashes, {"hashes": hashes["hashes"][:3]}, {"hashes": [0] * 4}, {"hashes": None}, {}):
        with pytest.raises(ProtocolError, match="another sum than it sends"):
            one.take("doris", (wrong, body + b"\0\0\0\0" if wrong is hashes else body))
    one.take("ceto", told(np.zeros(5, "<u4"), one.requests()["ceto"]))
    with pytest.raises(ProtocolError, match="different sums"):
        one.advance()
    assert not one.done
    decrypt(one, parties, sent)
    assert one.advance()
    assert one.done


def test_a_wrong_part_of_a_party_that_left_is_asked_for_again() -> None:
    circle, parties = parties_of(2, need=1)
    words = words_of(circle.names, 5, 4)
    one, sent = gathered(circle, parties, words)
    one.take("ares", told(np.zeros(5, "<u4"), one.requests()["ares"]))
    assert not one.advance()  # alone; it is asked for the rest, and leaves
    decrypt(one, parties, sent, ["bion"])
    assert not one.advance()
    assert one.requests()["bion"]["parts"] == [0]
    decrypt(one, parties, sent, ["bion"])
    assert one.advance()
    assert one.total.tolist() == (words["ares"] + words["bion"]).tolist()


def test_each_party_tells_its_part_of_the_sum_and_the_hashes_of_all() -> None:
    circle, parties = parties_of(numbers=10)
    one, sent = gathered(circle, parties, words_of(circle.names, 10, 4))
    decrypt(one, parties, sent)
    assert [len(body) for _, body in one.answers.values()] == [8, 12, 8, 12]
    for parts in (None, [4], [-1], ["0"], 7):
        with pytest.raises(ProtocolError, match="parts that a sum has not"):
            told(np.zeros(10, "<u4"), {"members": [*circle.names], "parts": parts})


def test_sums_of_more_parties_than_a_prime_holds_are_refused_before_anything_is_encrypted() -> None:
    with pytest.raises(UsageError, match="do not fit ciphertexts"):
        parameters_for(100)
    for parties in (2, 3, 10, 64):
        parameters = parameters_for(parties)
        prime, least = primes_of(parameters)[0], factor_of(parties)
        assert least > 2 * 21 * parties
        assert (least * 2**31 + 21) * parties < prime / 2
        assert parameters.total <= 109


def test_errors_have_the_deviation_of_the_library_and_never_pass_their_bound() -> None:
    found = summation._errors(bytes(32), 200_000)
    assert found.std() == pytest.approx(np.sqrt(21 / 2), rel=0.01)
    assert abs(found.mean()) < 0.05
    assert abs(found).max() <= 21


def test_the_library_decrypts_what_a_party_encrypted() -> None:
    """Our ciphertexts are SEAL's: with its secret key in the place of ours it reads the same integers."""
    _, parties = parties_of(numbers=50)
    party, words = parties["ares"], words_of(("ares",), 50, 4)["ares"]
    holder = Holder(party.form.parameters)
    object.__setattr__(party, "_secret", holder.residues[0])
    fields, body = party.contribution(words, bytes(32))
    first = np.zeros((1, 1, 4096), np.uint64)
    first[0, 0, : party.form.numbers] = party.form.read(body)
    parts = np.stack(
        [
            exact.transformed(party.form.parameters, first, forward=True)[0],
            party.form.random(bytes.fromhex(fields["seed"])),
        ]
    )
    found = exact.decrypted(holder, Ciphertext(party.form.parameters, float(factor_of(4)), raw=parts))
    assert (found[:50] + 2**31).astype("<u4").tolist() == words.tolist()


def test_traffic_is_less_than_twice_that_of_float32_both_ways_at_200_000_numbers() -> None:
    circle, parties = parties_of(2, numbers=200_000)
    words = words_of(circle.names, 200_000, 4)
    one, sent = gathered(circle, parties, words)
    down = len(one.body) + len(json.dumps(one.requests()))
    assert {len(body) for _, body in sent.values()} == {len(one.body)}
    assert len(one.body) + 100 < 1.26 * 4 * 200_000
    assert down < 1.26 * 4 * 200_000
    assert Form(64, 200_000, 4).prime.bit_length() <= 50  # 1.57 times


def test_a_keys_name_tells_nothing_of_it_and_no_object_shows_it() -> None:
    _, parties = parties_of()
    assert name_of(KEY) != name_of(bytes(32))
    assert KEY.hex() not in name_of(KEY)
    assert "key" not in repr(parties["ares"])
