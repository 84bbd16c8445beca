"""Tokens, days and made-up values: what is equal stays equal, domains and keys are apart, and no value comes back."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.actions import dates
from privae.actions.mask import masked
from privae.actions.rule import Shown, Surrogate
from privae.actions.surrogates import surrogates
from privae.actions.tokens import LENGTH, derived, offsets, seeds, tokens
from privae.errors import UsageError

KEY, OTHER = bytes(32), bytes([1] * 32)
IDS = [str(number) for number in range(3000)]


def test_tokens_are_consistent_in_a_domain_and_apart_elsewhere():
    mine = tokens(KEY, "patient", IDS)
    assert mine == tokens(KEY, "patient", IDS)
    assert len({*mine, *tokens(KEY, "doctor", IDS), *tokens(OTHER, "patient", IDS)}) == 3 * len(IDS)
    assert {len(token) for token in mine} == {LENGTH}
    assert set("".join(mine)) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    # a vector, so that tokens of two versions of privae are the same
    assert tokens(bytes(range(32)), "patient", ["P-1"]) == ["GAPW6UQ5PNHK5A34WGMQ"]


def test_a_domain_cannot_run_into_a_value():
    assert tokens(KEY, "ab", ["c"]) != tokens(KEY, "a", ["bc"])
    assert len({derived(KEY, purpose) for purpose in ("tokens", "shift", "surrogates", "ff1")}) == 4


def test_days_are_uniform_and_never_none():
    found = np.array(offsets(KEY, IDS, 3))
    assert sorted(set(found.tolist())) == [-3, -2, -1, 1, 2, 3]
    counts = np.unique(found, return_counts=True)[1]
    # chi-square of 5 degrees of freedom passes 30 with probability 1.5e-5, and the key is fixed
    assert ((counts - 500) ** 2 / 500).sum() < 30
    assert offsets(KEY, IDS, 3) != offsets(OTHER, IDS, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.dates(), st.dates(), st.integers(-4000, 4000), st.sampled_from([None, "%d.%m.%Y %H:%M", "%m/%d/%Y"])
)
def test_dates_of_a_person_keep_their_distance_and_their_form(one, two, days, form):
    written = {None: "{0:%Y-%m-%d}T08:30:00Z", "%d.%m.%Y %H:%M": "{0.day}.{0.month}.{0:%Y} 8:30"}.get(
        form, "{0:%m/%d/%Y}"
    )
    texts = [written.format(day).replace("{0:%Y}", "") for day in (one, two)]
    texts = [text if dates.read(text, form) else None for text in texts]  # years before 1000 print short
    moved = [None if text is None else dates.moved(text, days, form) for text in texts]
    if None not in moved:
        read = [dates.read(text, form) for text in moved]
        assert read[1] - read[0] == two - one
        assert (
            [dates.moved(text, -days, form) for text in moved] == texts or "/" in texts[0] or "." in texts[0]
        )


@pytest.mark.parametrize(
    "text", ["9999-12-31", "2024-13-01", "2024-1-1", "yesterday", "2024-02-29 met Ann", "", "2024-02-29\n"]
)
def test_what_is_no_date_or_leaves_the_calendar_is_not_moved(text):
    assert dates.moved(text, 5) is None


def test_a_mask_hides_the_rest_and_its_length():
    assert masked(Shown(last=4), ["4111 1111 1111 1111", "1111", "张三"]) == ["***1111", "***", "***"]
    assert masked(Shown(first=1, last=1, length="shown", sign="x"), ["abcd", "ab", "a"]) == [
        "axxd",
        "xx",
        "x",
    ]
    assert masked(Shown(after="@", first=1), ["ann@b@x.org", "nobody", "@x"]) == [
        "a***@x.org",
        "n***",
        "***@x",
    ]


@pytest.mark.parametrize(
    ("provider", "locale"), [("name", "en_US"), ("email", "en_US"), ("address", "zh_CN")]
)
def test_a_surrogate_is_the_same_for_the_same_and_never_itself(provider, locale):
    pytest.importorskip("faker")
    rule = Surrogate(provider=provider, locale=locale)
    made = surrogates(KEY, rule, IDS[:40])
    assert made == surrogates(KEY, rule, IDS[:40])
    assert len(set(made)) > 30
    assert made != surrogates(OTHER, rule, IDS[:40])
    assert all("\n" not in one and one for one in made)
    drawn = surrogates(KEY, rule, ["x"])[0]
    assert seeds(KEY, "a", ["x"]) != seeds(KEY, "b", ["x"])
    assert drawn not in surrogates(KEY, rule, [drawn, drawn.upper()])


def test_a_surrogate_that_can_only_be_the_original_is_suppressed(monkeypatch):
    class Stuck:
        def seed_instance(self, seed):
            assert 0 <= seed < 2**64

        def name(self):
            return "Ann"

    monkeypatch.setattr("privae.actions.surrogates._faker", lambda locale: Stuck())
    assert surrogates(KEY, Surrogate(provider="name"), ["ANN", "Bob"]) == ["*", "Ann"]


def test_without_faker_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(UsageError, match=r"privae\[deidentify\]"):
        surrogates(KEY, Surrogate(provider="name"), ["a"])
