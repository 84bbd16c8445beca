import dataclasses
import json
import math

import pytest

from privae.errors import ArtifactError
from privae.privacy.guarantee import NOT_PRIVATE, REFUSED, Guarantee


def made(**changes):
    fields = {
        "epsilon": 0.98765,
        "delta": 1e-6,
        "epsilon_replace_one": 1.5,
        "accountant": "PLD",
        "delta_accountant": 8e-7,
        "delta_threshold": 1.9e-7,
        "delta_sampler": 1e-8,
        "not_covered": ("the schema", "groups"),
    }
    return Guarantee(**{**fields, **changes})


def test_every_part_of_the_promise_is_printed():
    text = str(made())
    for part in (
        "e^0.9877", "0.9877, 1e-06", "one record", "add or remove", "1.5", "PLD", "8e-07", "1.9e-07", "1e-08",
        "- the schema", "- groups",
    ):  # fmt: skip
        assert part in text
    assert text.splitlines()[0] == made().sentence()
    assert "\n" not in made().sentence()
    assert NOT_PRIVATE not in text


def test_without_a_finite_epsilon_it_says_not_private_and_nothing_else():
    nothing = made(epsilon=math.inf, epsilon_replace_one=math.inf)
    assert not nothing.holds
    assert str(nothing) == nothing.sentence()
    assert str(nothing).startswith("NOT PRIVATE")
    assert "factor" not in str(nothing)


@pytest.mark.parametrize("epsilon", [0.1 + 0.2, math.inf])
def test_it_survives_json_to_the_last_bit(epsilon):
    first = made(epsilon=epsilon)
    assert Guarantee.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False))) == first


@pytest.mark.parametrize("change", [{"extra": 1}, {"epsilon": None}, {"not_covered": None}])
def test_other_fields_are_refused(change):
    fields = made().to_dict() | change
    if change == {"epsilon": None}:
        del fields["epsilon"]
    with pytest.raises(ArtifactError, match="other fields"):
        Guarantee.from_dict(fields)


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().epsilon = 0.1


def test_an_older_guarantee_is_read_as_saying_all_that_a_refusal_may_tell():
    plain = Guarantee(1.0, 1e-6, 1.4, "PLD", 1e-6, 0.0, 0.0, (REFUSED, "more"))
    older = plain.to_dict() | {
        "not_covered": [
            "that a fit was refused for the size of its data, or because a file did not read",
            "more",
        ]
    }
    assert Guarantee.from_dict(older) == Guarantee.from_dict(plain.to_dict()) == plain
