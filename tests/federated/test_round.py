"""One sum over sites, driven by hand: whoever is lost, late or killed, it is exact or there is none."""

import contextlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.custody.keys import signing_key
from privae.errors import ProtocolError
from privae.federated import masking, round
from privae.federated.messages import bytes_of, text_of
from privae.federated.round import KINDS, STAGES, Circle, Opened, Round, Seat

NAMES = ("ares", "bion", "ceto", "doris", "eris", "faun")
COUNT = 5


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: signing_key(folder / name) for name in NAMES}


def circle_of(keys, count=4, threshold=3, need=2, context="study/0/0"):
    names = NAMES[:count]
    return Circle(names, {name: keys[name].public for name in names}, threshold, need, context)


def seats_of(keys, circle, secret=b"s"):
    return {n: Seat(circle, n, masking.derive(secret * 32, n), keys[n].sign) for n in circle.names}


def numbers_of(circle, word=4):
    rows = np.random.default_rng(5).integers(-(2**31), 2**31, (len(circle.names), COUNT))
    return {name: masking.as_words(row, word) for name, row in zip(circle.names, rows, strict=True)}


def answer(seat, stage, request, words):
    if stage == "open":
        return {"keys": round.advertise(seat)}, b""
    if stage == "keys":
        return round.share_keys(seat, request), b""
    if stage == "shares":
        return {}, round.contribute(seat, request, words)
    return (round.agree if stage == "agree" else round.reveal)(seat, request), b""


def drive(one, seats, numbers, lost=None, until=None):
    """Run a round, of which some names do not answer some stages, to its end or to the start of a stage."""
    while not one.done and one.stage != until:
        for name, request in one.requests().items():
            if name not in (lost or {}).get(one.stage, ()):
                one.take(name, answer(seats[name], one.stage, request, numbers[name]))
        if not one.advance():
            break
    return one


def exact(one, numbers):
    total = np.zeros(COUNT, KINDS[one.word])
    for name in one.members:
        total += numbers[name]
    return one.total.tolist() == total.tolist()


def rebuilt(one):
    """The round after its coordinator was killed: all that is left of it is JSON and the bytes of the total."""
    again = Round(one.circle, one.count, one.word, one.masked)
    again.restore(json.loads(json.dumps(one.state())), b"" if one.total is None else one.total.tobytes())
    return again


@pytest.fixture
def setting(keys):
    """Four sites of which two must be in a sum and three open it."""
    circle = circle_of(keys)
    return circle, seats_of(keys, circle), numbers_of(circle)


@pytest.fixture
def requests(setting):
    """What everybody is asked at each stage of a round from which doris is lost before its vector comes."""
    circle, seats, numbers = setting
    one, found = Round(circle, COUNT, 4), {}
    for stage in STAGES:
        drive(one, seats, numbers, {"shares": ["doris"]}, until=stage)
        found[stage] = one.requests()
    return found


@st.composite
def troubles(draw):
    """A circle, and who is lost at which stage."""
    count = draw(st.integers(3, 6))
    threshold = draw(st.integers(count // 2 + 1, count))
    need = draw(st.integers(1, count))
    lost = {stage: draw(st.sets(st.sampled_from(NAMES[:count]), max_size=2)) for stage in STAGES}
    return (
        count,
        threshold,
        need,
        lost,
        draw(st.sampled_from([4, 8])),
        draw(st.randoms(use_true_random=False)),
    )


@settings(max_examples=40, deadline=None)
@given(troubles())
def test_a_sum_is_exact_or_there_is_none_in_whatever_order_answers_come(keys, trouble):
    count, threshold, need, lost, word, rng = trouble
    circle = circle_of(keys, count, threshold, need)
    seats, numbers = seats_of(keys, circle), numbers_of(circle, word)
    one, earlier = Round(circle, COUNT, word), []
    while not one.done:
        stage, asked = one.stage, one.requests()
        late, earlier = earlier[:], earlier
        rng.shuffle(late)
        for name, old in late:  # answers to stages that are over
            before = dict(one.answers)
            with contextlib.suppress(ProtocolError):
                one.take(name, old)
            assert one.answers == before
        came = [name for name in asked if name not in lost[stage]]
        rng.shuffle(came)
        for name in came:
            given_now = answer(seats[name], stage, asked[name], numbers[name])
            one.take(name, given_now)
            one.take(name, ({}, b""))  # a second answer changes nothing, whatever it says
            assert one.answers[name] == given_now
            earlier.append((name, given_now))
        went_on = one.advance()
        enough = threshold if stage == "unmask" else max(threshold, need)
        assert went_on == (len(came) == len(asked) or len(came) >= enough)
        if not went_on:
            assert not one.done
            return
        if one.stage == "agree":
            assert set(one.members) == set(came)
    assert exact(one, numbers)
    assert len(one.members) >= max(need, threshold)
    assert one.requests() == {}
    assert not one.advance()


@settings(max_examples=25, deadline=None)
@given(troubles(), st.sampled_from(STAGES[1:]), st.booleans())
def test_a_killed_coordinator_goes_on_to_the_same_total(keys, trouble, stage, midway):
    count, threshold, _, lost, word, _ = trouble
    circle = circle_of(keys, count, threshold, 1)
    seats, numbers = seats_of(keys, circle), numbers_of(circle, word)
    whole = drive(Round(circle, COUNT, word), seats, numbers, lost)
    one = drive(Round(circle, COUNT, word), seats, numbers, lost, until=stage)
    if one.stage != stage:
        assert not whole.done
        return
    if midway:
        name, request = next(iter(one.requests().items()))
        one.take(name, answer(seats[name], stage, request, numbers[name]))
    again = rebuilt(one)
    assert (again.stage, again.members, again.answers) == (one.stage, one.members, {})
    assert again.requests() == drive(Round(circle, COUNT, word), seats, numbers, lost, until=stage).requests()
    drive(again, seats, numbers, lost)
    assert again.done == whole.done
    if whole.done:
        assert again.members == whole.members
        assert again.total.tobytes() == whole.total.tobytes()
        assert exact(again, numbers)


def test_a_round_killed_at_every_stage_is_that_of_one_that_was_not(setting):
    circle, seats, numbers = setting
    one = Round(circle, COUNT, 4)
    for stage in STAGES[1:]:
        one = rebuilt(drive(one, seats, numbers, {"shares": ["bion"]}, until=stage))
    drive(one, seats, numbers)
    assert one.members == ("ares", "ceto", "doris")
    assert exact(one, numbers)


def test_a_round_that_opens_again_among_others_is_exact(setting):
    # what came before the first decision on disk is lost by a kill; sites have shared their secrets by then
    circle, seats, numbers = setting
    drive(Round(circle, COUNT, 4), seats, numbers, {"open": ["ares"]}, until="shares")
    one = drive(Round(circle, COUNT, 4), seats, numbers, {"open": ["bion"]})
    assert one.done
    assert one.members == ("ares", "ceto", "doris")
    assert exact(one, numbers)


def test_a_state_of_other_keys_is_not_taken_up(setting):
    circle, seats, numbers = setting
    state = drive(Round(circle, COUNT, 4), seats, numbers, until="keys").state()
    state["book"]["ares"]["mask"], state["book"]["ares"]["channel"] = (
        state["book"]["ares"]["channel"],
        state["book"]["ares"]["mask"],
    )
    with pytest.raises(ProtocolError, match="signature"):
        Round(circle, COUNT, 4).restore(state, b"")


def test_a_site_answers_every_request_byte_for_byte_as_before(keys, setting, requests):
    circle, seats, numbers = setting
    again = seats_of(keys, circle)
    for stage, asked in requests.items():
        for name, request in asked.items():
            copied = json.loads(json.dumps(request))
            given_first = answer(seats[name], stage, request, numbers[name])
            assert given_first == answer(again[name], stage, copied, numbers[name])


def test_whoever_is_waited_for_holds_a_round_up_and_whoever_is_lost_does_not(setting):
    circle, seats, numbers = setting
    one = Round(circle, COUNT, 4)
    for name in ("ares", "bion", "ceto"):
        one.take(name, answer(seats[name], "open", {}, numbers[name]))
    assert set(one.requests()) == {"doris"}
    assert not one.advance(waiting=["doris"])
    assert one.advance(waiting=["ares"])
    assert one.stage == "keys"
    assert set(one.requests()) == {"ares", "bion", "ceto"}


def test_a_sum_waits_for_as_many_vectors_as_open_it(setting):
    # two are enough for the noise, but three must sign: a set of two could never be opened, and is final
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, {"shares": ["ares", "bion"]})
    assert (one.stage, one.members) == ("shares", ())
    assert set(one.requests()) == {"ares", "bion"}
    drive(one, seats, numbers, {"shares": ["bion"]})
    assert one.done
    assert one.members == ("ares", "ceto", "doris")
    assert exact(one, numbers)


@pytest.mark.parametrize("word", [4, 8])
def test_unmasked_a_sum_is_that_of_the_vectors(keys, word):
    circle = circle_of(keys, need=3)
    numbers = numbers_of(circle, word)
    one = Round(circle, COUNT, word, masked=False)
    assert one.requests() == {name: {} for name in circle.names}
    for name in ("ares", "ceto"):
        one.take(name, ({}, numbers[name].tobytes()))
    assert not one.advance()
    one.take("doris", ({}, numbers["doris"].tobytes()))
    one.take("doris", ({}, bytes(COUNT * word)))
    assert not one.advance(waiting=["bion"])
    assert one.advance()
    assert one.done
    assert one.members == ("ares", "ceto", "doris")
    assert exact(one, numbers)
    assert one.requests() == {}
    one.take("bion", ({}, numbers["bion"].tobytes()))
    assert exact(one, numbers)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 4 * COUNT - 1, 4 * COUNT + 1, 4 * COUNT + 4, 8 * COUNT])
def test_a_vector_of_another_size_is_refused_and_may_be_sent_again(setting, masked, size):
    circle, seats, numbers = setting
    one = Round(circle, COUNT, 4, masked)
    drive(one, seats, numbers, until="shares" if masked else "open")
    with pytest.raises(ProtocolError, match="another number of numbers"):
        one.take("ares", ({}, bytes(size)))
    assert "ares" in one.requests()


def test_an_answer_of_a_stranger_or_of_a_site_that_is_out_changes_nothing(setting):
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, {"open": ["ares"]}, until="keys")
    one.take("ares", ({"sealed": {}}, b""))
    one.take("stranger", ({"sealed": {}}, b""))
    assert one.answers == {}


def test_keys_that_are_not_a_sites_own_are_refused_by_the_coordinator(keys, setting):
    circle, seats, _ = setting
    elsewhere = seats_of(keys, replace(circle, context="study/1/0"))
    others = replace(circle, names=tuple(reversed(circle.names)))
    good = round.advertise(seats["ares"])
    wrong = [
        None,
        "keys",
        {},
        {**good, "signature": None},
        {**good, "signature": round.advertise(seats["bion"])["signature"]},
        {**good, "mask": good["channel"], "channel": good["mask"]},
        {**good, "mask": text_of(bytes(32))},
        {**good, "mask": 7},
        round.advertise(seats["bion"]),
        round.advertise(elsewhere["ares"]),  # of another sum
        round.advertise(replace(seats["ares"], circle=others)),  # of another roster
    ]
    one = Round(circle, COUNT, 4)
    for fields in wrong:
        with pytest.raises(ProtocolError):
            one.take("ares", ({"keys": fields}, b""))
    assert "ares" in one.requests()
    one.take("ares", ({"keys": good}, b""))
    assert "ares" not in one.requests()


def signed_keys(keys, circle, name, channel, mask):
    """Keys of any kind under a site's true signature, as a site that cheats sends them."""
    statement = circle.statement("keys", name, text_of(channel), text_of(mask))
    return Opened(channel, mask, keys[name].sign(statement)).fields()


@pytest.mark.parametrize("size", [0, 31, 33, 48])
def test_keys_of_another_size_are_refused_even_when_signed(keys, setting, size):
    circle, *_ = setting
    for channel, mask in ((bytes(size), bytes([9]) * 32), (bytes([9]) * 32, bytes(size))):
        with pytest.raises(ProtocolError):
            Round(circle, COUNT, 4).take(
                "ares", ({"keys": signed_keys(keys, circle, "ares", channel, mask)}, b"")
            )


@pytest.mark.parametrize("stage", ["keys", "shares", "unmask"])
def test_a_site_takes_no_keys_that_their_owner_did_not_sign(keys, setting, requests, stage):
    circle, seats, numbers = setting
    book = requests[stage]["ares"]["book"]
    mine = masking.Keys.of(bytes(32)).public
    own = {"channel": text_of(mine[0]), "mask": text_of(mine[1])}
    wrong = [
        {**book, "bion": {**book["bion"], **own}},  # the coordinator's keys under bion's signature
        {**book, "bion": {**book["bion"], "mask": own["mask"]}},
        {**book, "bion": book["ceto"], "ceto": book["bion"]},
        {**book, "bion": {**book["bion"], "signature": book["ceto"]["signature"]}},
        {**book, "bion": {**own, "signature": keys["ares"].sign(b"")}},
        {**book, "ares": {**book["ares"], **own}},
        # ares signed these, for a round with another secret
        {**book, "ares": round.advertise(replace(seats["ares"], secret=bytes(32)))},
        {name: keys for name, keys in book.items() if name != "ares"},
        {"ares": book["ares"], "bion": book["bion"]},  # fewer than open a secret
        {**book, "stranger": book["bion"]},
        {**book, "bion": None},
        None,
        list(book),
        # bion passes the keys of ceto on as its own
        {
            **book,
            "bion": signed_keys(
                keys, circle, "bion", *(bytes_of(book["ceto"][kind]) for kind in ("channel", "mask"))
            ),
        },
    ]
    for changed in wrong:
        with pytest.raises(ProtocolError):
            answer(seats["ares"], stage, {**requests[stage]["ares"], "book": changed}, numbers["ares"])


@pytest.mark.parametrize(("stage", "kind"), [("keys", "channel"), ("shares", "mask"), ("unmask", "channel")])
def test_a_key_under_which_everybody_knows_what_is_agreed_is_refused(keys, setting, requests, stage, kind):
    circle, seats, numbers = setting
    book = requests[stage]["ares"]["book"]
    parts = {part: bytes_of(book["bion"][part]) for part in ("channel", "mask")} | {kind: bytes(32)}
    book = {**book, "bion": signed_keys(keys, circle, "bion", **parts)}
    with pytest.raises(ProtocolError, match="is none"):
        answer(seats["ares"], stage, {**requests[stage]["ares"], "book": book}, numbers["ares"])


@pytest.mark.parametrize("stage", ["shares", "agree", "unmask"])
def test_a_site_takes_no_round_without_enough_others(setting, requests, stage):
    _, seats, numbers = setting
    request = requests[stage]["ares"]
    sealed = request["sealed"]
    wrong = [None, [], {**sealed, "ares": "AAAA"}, {**sealed, "stranger": "AAAA"}, {}]
    for changed in wrong if stage != "agree" else wrong[:2] + wrong[4:]:
        with pytest.raises(ProtocolError):
            answer(seats["ares"], stage, {**request, "sealed": changed}, numbers["ares"])


@pytest.mark.parametrize("stage", ["agree", "unmask"])
@pytest.mark.parametrize(
    "members",
    [
        None,
        "ares",
        [],
        ["ares"],
        ["ares", "ares", "bion", "ceto"],
        ["ares", "bion", "stranger"],
        ["bion", "ceto"],
        ["ares", "bion", ["ceto"]],
        ["ares", "bion", None],
        {"ares": 1, "bion": 1, "ceto": 1},
    ],
)
def test_a_site_opens_no_set_that_is_too_small_or_not_of_the_round(setting, requests, stage, members):
    _, seats, numbers = setting
    with pytest.raises(ProtocolError):
        answer(seats["ares"], stage, {**requests[stage]["ares"], "members": members}, numbers["ares"])


def test_a_site_opens_no_set_smaller_than_the_noise_needs(keys):
    circle = circle_of(keys, 5, 3, 4)
    seats, numbers = seats_of(keys, circle), numbers_of(circle)
    one = drive(Round(circle, COUNT, 4), seats, numbers, until="agree")
    request = {**one.requests()["ares"], "members": ["ares", "bion", "ceto"]}
    with pytest.raises(ProtocolError, match="needs 4 sites"):
        round.agree(seats["ares"], request)
    assert round.agree(seats["ares"], {**request, "members": ["ares", "bion", "ceto", "eris"]})


def test_a_site_opens_only_the_set_that_enough_signed(keys, setting, requests):
    circle, seats, _ = setting
    request = requests["unmask"]["ares"]
    marks = request["signatures"]
    assert set(marks) == {"ares", "bion", "ceto"} == set(request["members"])
    of_all = circle.statement("members", "ceto", circle.names)
    stray = keys["doris"].sign(circle.statement("members", "doris", ("ares", "bion", "ceto")))
    other = replace(circle, context="study/1/0").statement("members", "ceto", ("ares", "bion", "ceto"))
    wrong = [
        {"members": list(circle.names)},  # another set than was signed
        {"members": ["ares", "bion"]},
        {"signatures": None},
        {"signatures": {}},
        {"signatures": {"ares": marks["ares"], "bion": marks["bion"]}},
        {"signatures": {**marks, "ceto": marks["bion"]}},
        {"signatures": {**marks, "ceto": None}},
        {"signatures": {**marks, "ceto": keys["ceto"].sign(of_all)}},
        {"signatures": {**marks, "ceto": keys["ceto"].sign(other)}},
        {"signatures": {**marks, "doris": stray}},  # of a site that is not in the set
        {"signatures": {"ares": marks["ares"], "bion": marks["bion"], "doris": stray}},
        {"signatures": {**marks, "stranger": marks["ceto"]}},
    ]
    assert round.reveal(seats["ares"], request)
    for changed in wrong:
        with pytest.raises(ProtocolError):
            round.reveal(seats["ares"], {**request, **changed})


def test_a_site_opens_nothing_of_shares_that_were_changed_on_the_way(setting, requests):
    _, seats, _ = setting
    request = requests["unmask"]["ares"]
    sealed = request["sealed"]
    for changed in (
        {**sealed, "bion": sealed["ceto"]},
        {**sealed, "bion": requests["unmask"]["ceto"]["sealed"]["bion"]},  # those for ceto
        {**sealed, "bion": ""},
        {**sealed, "bion": None},
        {**sealed, "bion": sealed["bion"][:-4] + "AAAA"},
    ):
        with pytest.raises(ProtocolError):
            round.reveal(seats["ares"], {**request, "sealed": changed})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_site_reveals_of_each_other_its_seed_or_its_mask_key_and_never_both(keys, data):
    circle = circle_of(keys, 5, 3, 2)
    seats, numbers = seats_of(keys, circle), numbers_of(circle)
    one = drive(Round(circle, COUNT, 4), seats, numbers, until="shares")
    sets = st.lists(st.sampled_from(circle.names), min_size=1, max_size=5, unique=True)
    senders, members, signers = data.draw(sets), data.draw(sets), data.draw(sets)
    name = data.draw(st.sampled_from(circle.names))
    in_order = tuple(n for n in circle.names if n in members)
    request = one.requests()[name]
    request["sealed"] = {n: request["sealed"][n] for n in senders if n != name}
    request["members"] = members
    request["signatures"] = {n: keys[n].sign(circle.statement("members", n, in_order)) for n in signers}
    known = {name, *senders}
    fits = len(known) >= 3 and set(members) <= known and name in members and len(members) >= 2
    if not (fits and len(signers) >= 3 and set(signers) <= set(members)):
        with pytest.raises(ProtocolError):
            round.reveal(seats[name], request)
        return
    fields = round.reveal(seats[name], request)
    assert set(fields["seeds"]) == set(members)
    assert set(fields["masks"]) == known - set(members)
    places = [circle.place(n) for n in circle.names]
    for kind, part, about in [
        *(("seeds", "seed", n) for n in fields["seeds"]),
        *(("masks", "mask", n) for n in fields["masks"]),
    ]:
        seat = seats[about]
        coins = masking.derive(seat.secret, "shares", part, *places)
        made = masking.split(getattr(seat.keys, part), 3, places, coins)
        assert bytes_of(fields[kind][about]) == made[circle.place(name)]


def test_shares_for_a_site_both_in_and_out_of_the_sum_are_refused(setting):
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, {"shares": ["doris"]}, until="unmask")
    good = round.reveal(seats["ares"], one.requests()["ares"])
    assert (set(good["seeds"]), set(good["masks"])) == ({"ares", "bion", "ceto"}, {"doris"})
    share = good["masks"]["doris"]
    for changed in (
        {"masks": {**good["masks"], "ares": share}},
        {"seeds": {**good["seeds"], "doris": share}},
        {"seeds": dict.fromkeys(("ares", "bion"), share)},
        {"masks": {}},
        {"masks": None},
        {"seeds": list(good["seeds"])},
        {"seeds": {**good["seeds"], "bion": text_of(bytes(32))}},
        {"seeds": {**good["seeds"], "bion": None}},
        {"masks": {"doris": "no base64"}},
    ):
        with pytest.raises(ProtocolError):
            one.take("ares", ({**good, **changed}, b""))
        assert "ares" in one.requests()
    drive(one, seats, numbers)
    assert exact(one, numbers)


def test_shares_that_leave_another_site_out_are_refused(setting):
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, until="keys")
    good = round.share_keys(seats["ares"], one.requests()["ares"])["sealed"]
    assert set(good) == {"bion", "ceto", "doris"}
    for changed in (
        None,
        {},
        {n: good[n] for n in ("bion", "ceto")},
        {**good, "ares": good["bion"]},
        {**good, "stranger": good["bion"]},
        {**good, "bion": 3},
        {**good, "bion": "no base64"},
        {**good, "bion": "A" * 10_000},
    ):
        with pytest.raises(ProtocolError):
            one.take("ares", ({"sealed": changed}, b""))


def test_a_signature_on_another_set_is_refused_by_the_coordinator(keys, setting):
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, {"shares": ["doris"]}, until="agree")
    other = circle.statement("members", "ares", ("ares", "bion"))
    for mark in (
        keys["ares"].sign(other),
        keys["bion"].sign(circle.statement("members", "ares", one.members)),
        None,
        3,
    ):
        with pytest.raises(ProtocolError, match="does not sign"):
            one.take("ares", ({"signature": mark}, b""))


@pytest.mark.parametrize(
    ("kind", "about", "answering"),  # of the key of masks everybody knows the public one; of a seed, nothing
    [("seeds", "bion", 3), ("masks", "doris", 3), ("masks", "eris", 3), ("masks", "eris", 2)],
)
def test_a_wrong_share_leaves_the_total_as_it_was(keys, kind, about, answering):
    circle = circle_of(keys, 5, 2, 2)
    seats, numbers = seats_of(keys, circle), numbers_of(circle)
    lost = {"shares": ["doris", "eris"]}
    one = drive(Round(circle, COUNT, 4), seats, numbers, lost, until="unmask")
    before = one.total.copy()
    for name in ("ares", "bion", "ceto")[:answering]:
        fields = round.reveal(seats[name], one.requests()[name])
        if name == "ares":
            share = int.from_bytes(bytes_of(fields[kind][about])) ^ 1
            fields = {**fields, kind: {**fields[kind], about: text_of(share.to_bytes(masking.SHARE))}}
        one.take(name, (fields, b""))
    with pytest.raises(ProtocolError, match="wrong one"):
        one.advance()
    assert (one.total == before).all()
    assert not one.done
    again = drive(rebuilt(one), seats, numbers)
    assert exact(again, numbers)


def test_what_the_coordinator_holds_before_the_last_stage_is_masked(setting):
    circle, seats, _ = setting
    words = {name: np.full(2000, place, "<u4") for place, name in enumerate(circle.names, 1)}
    one = drive(Round(circle, 2000, 4), seats, words, until="agree")
    assert len(np.unique(one.total)) > 1990
    drive(one, seats, words)
    assert set(one.total.tolist()) == {1 + 2 + 3 + 4}


def test_no_two_sums_share_a_mask(keys):
    zeros = np.zeros(500, "<u4")
    vectors = []
    for context, secret in itertools.product(("study/0/0", "study/0/1", "study/1/0"), (b"s", b"t")):
        circle = circle_of(keys, context=context)
        seats = seats_of(keys, circle, secret)
        one = drive(Round(circle, 500, 4), seats, dict.fromkeys(circle.names, zeros), until="shares")
        vectors += [round.contribute(seats[n], one.requests()[n], zeros) for n in circle.names]
    words = np.concatenate([np.frombuffer(vector, "<u4") for vector in vectors])
    assert len(np.unique(words)) > len(words) - 10
    assert (np.frombuffer(vectors[0], "<u4") != np.frombuffer(vectors[4], "<u4")).all()


def test_a_set_of_sites_reads_in_the_order_of_the_roster(setting):
    circle, *_ = setting
    assert circle.check(["doris", "ares"], circle.names, 2) == ("ares", "doris")
    for names, among, least in [
        (["ares", "ares"], circle.names, 1),
        (["ares", 3], circle.names, 1),
        (["ares", "doris"], ["ares"], 1),
        (["ares"], circle.names, 2),
    ]:
        with pytest.raises(ProtocolError):
            circle.check(names, among, least)


def test_statements_of_two_kinds_sums_or_rosters_never_read_the_same(setting):
    circle, *_ = setting
    made = [
        circle.statement("keys", "ares"),
        circle.statement("members", "ares"),
        circle.statement("members", ("ares",)),
        replace(circle, context="study/1/0").statement("members", ("ares",)),
        replace(circle, names=circle.names[:3]).statement("members", ("ares",)),
    ]
    assert len(set(made)) == len(made)


def test_a_secret_never_shows_in_a_text_of_a_seat_or_a_round(setting):
    circle, seats, numbers = setting
    one = drive(Round(circle, COUNT, 4), seats, numbers, until="agree")
    assert repr(seats["ares"].secret) not in repr(seats["ares"])
    assert "array" not in repr(one)
