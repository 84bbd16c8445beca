"""What a killed fit goes on from."""

import hashlib
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privae import files
from privae.errors import ArtifactError, PrivacyRefused
from privae.plan import Phase, Plan
from privae.privacy.ledger import Charge
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.training.state import FORGETFUL, Checkpoint, State, block_of, discard, uninterrupted

SUMS, STEPS = Event(3.0, replace_ratio=1.5), Event(2.0, 0.1, 40)


def plan(steps=40):
    phases = (
        Phase(name="sums of all", share=0.5, sensitivity=1.0, replace_ratio=1.5, noise_multiplier=3.0),
        Phase(
            name="gradients",
            kind="gradients",
            share=0.5,
            sensitivity=1.0,
            replace_ratio=2.0,
            noise_multiplier=2.0,
            sampling_rate=0.1,
            steps=steps,
        ),
    )
    return Plan(
        recipe="gradients",
        epsilon=3.0,
        delta=1e-5,
        phases=phases,
        schema_hash="s",
        rows_needed=1,
        seconds=1.0,
        megabytes=1.0,
        code_version="v",
    )


def begun(path, noise=None):
    return Checkpoint(path, plan(), noise or NoiseSource())


def charged(kept, phase="gradients", steps=5):
    event = SUMS if phase == "sums of all" else Event(2.0, 0.1, steps)
    kept.ledger.spend([Charge(kept.plan.hash, "s", phase, event)])
    kept.write()


def again(kept, noise=None):
    """The next life of a killed fit."""
    return Checkpoint.load(kept.path, noise or NoiseSource())


def weights(value):
    return {
        "values": torch.full((3,), float(value)),
        "adam.count": torch.tensor(value),
        "none": torch.ones(0),
    }


@given(st.integers(1, 10**6))
def test_blocks_are_at_most_sixteen_and_of_at_least_five_steps(steps):
    block = block_of(steps)
    assert block >= 5
    assert -(-steps // block) <= 16
    assert block == 5 or (block - 1) * 16 < steps


def test_a_forgetful_keeper_knows_nothing():
    FORGETFUL.save("a", State(3, weights(1)))
    FORGETFUL.remember("a", [np.ones(3)])
    assert FORGETFUL.restore("a") is None
    assert FORGETFUL.recall("a") is None


def test_releases_come_back_byte_for_byte(tmp_path):
    kept = begun(tmp_path / "c")
    arrays = [np.array([[0.1, -np.inf], [np.nan, 5e-324]]), np.zeros((0, 3)), np.arange(4, dtype=np.uint8)]
    assert kept.recall("sums of all") is None
    charged(kept, "sums of all")
    kept.remember("sums of all", arrays)
    for life in (kept, again(kept)):
        for one, other in zip(arrays, life.recall("sums of all"), strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_a_release_of_nothing_is_a_release(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept, "sums of all")
    kept.remember("sums of all", [])
    assert again(kept).recall("sums of all") == []


def test_a_phase_that_was_charged_and_lost_is_refused(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept, "sums of all")
    with pytest.raises(PrivacyRefused, match="charged again") as caught:
        again(kept).recall("sums of all")
    assert str(kept.path) in str(caught.value)
    assert again(kept).recall("another") is None


def test_gradients_begin_where_nothing_was_charged(tmp_path):
    assert begun(tmp_path / "c").restore("gradients") is None


def test_a_block_that_was_lost_is_charged_and_not_run_again(tmp_path):
    """Steps 0 to 4 are kept, 5 to 9 are killed: the next life goes on at 10 with the weights of step 5."""
    kept = begun(tmp_path / "c")
    kept.restore("gradients")
    charged(kept)
    kept.save("gradients", State(5, weights(5)))
    charged(kept)
    life = again(kept)
    state = life.restore("gradients")
    assert state.step == 10
    assert state.tensors["values"].tolist() == [5.0] * 3
    assert state.tensors["adam.count"].item() == 5
    assert state.tensors["none"].shape == (0,)
    assert life.lost() == 5
    charged(life)
    life.save("gradients", State(15, weights(10)))
    charged(life)
    life = again(life)
    assert (life.restore("gradients").step, life.lost(), life.updates) == (20, 10, {"gradients": 10})


def test_a_first_block_that_was_lost_leaves_the_first_weights(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept)
    state = again(kept).restore("gradients")
    assert (state.step, state.tensors) == (5, {})


def test_the_state_of_a_block_is_written_with_the_next_charge_and_the_last_one_at_once(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept)
    before = kept.path.read_bytes()
    kept.save("gradients", State(5, weights(5)))
    assert kept.path.read_bytes() == before
    charged(kept, steps=35)
    assert again(kept).restore("gradients").tensors["values"][0] == 5
    kept.save("gradients", State(40, weights(40)))
    life = again(kept)
    assert (life.restore("gradients").step, life.lost()) == (40, 0)
    assert life.restore("gradients").tensors["values"][0] == 40


def test_what_is_kept_does_not_follow_tensors_that_move_on(tmp_path):
    kept, tensors = begun(tmp_path / "c"), weights(5)
    charged(kept)
    kept.save("gradients", State(5, tensors))
    tensors["values"].zero_()
    charged(kept)
    assert again(kept).restore("gradients").tensors["values"][0] == 5


def test_a_parameter_on_any_stride_is_kept(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept)
    kept.save("gradients", State(40, {"values": torch.arange(6.0, requires_grad=True).view(2, 3).T}))
    assert again(kept).restore("gradients").tensors["values"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_numbers_drawn_add_up_over_lives(tmp_path):
    source = NoiseSource()
    kept = begun(tmp_path / "c", source)
    source.gaussian_integers(7, 1.0)
    kept.write()
    fresh = NoiseSource()
    life = again(kept, fresh)
    assert life.drawn_before == 7
    fresh.gaussian_integers(4, 1.0)
    life.write()
    assert again(life).drawn_before == 11


def test_a_key_given_by_hand_is_known_for_ever(tmp_path):
    kept = begun(tmp_path / "c", NoiseSource(bytes(32)))
    kept.write()
    assert again(kept).fixed
    assert not begun(tmp_path / "d").fixed


def test_neither_key_nor_coins_are_in_the_file(tmp_path):
    """Planted: a known key, and the first words of its keystream."""
    key = hashlib.sha256(b"planted").digest()
    source, twin = NoiseSource(key), NoiseSource(key)
    kept = begun(tmp_path / "c", source)
    source.words(64)
    charged(kept, "sums of all")
    kept.remember("sums of all", [np.ones(3)])
    charged(kept)
    kept.save("gradients", State(40, weights(1)))
    content, words = kept.path.read_bytes(), twin.words(64)
    assert b'"gradients"' in content  # stored as it is, so that a search means something
    assert key not in content
    assert key.hex().encode() not in content
    assert not [word for word in words if word.tobytes() in content]


def test_a_finished_fit_is_removed_and_another_one_is_not(tmp_path):
    kept = begun(tmp_path / "c")
    charged(kept)
    discard(kept.path, "another head")
    assert kept.path.exists()
    with files.owned(kept.path):
        discard(kept.path, kept.ledger.head)
    assert kept.path.exists()
    discard(kept.path, kept.ledger.head)
    assert list(tmp_path.iterdir()) == []
    discard(kept.path, kept.ledger.head)
    discard(tmp_path / "no folder" / "c", kept.ledger.head)


@pytest.mark.parametrize("change", ["flip", "cut", "model", "notes", "plan", "ledger", "released", "state"])
def test_a_file_that_is_damaged_or_no_checkpoint_is_refused(tmp_path, change):
    kept = begun(tmp_path / "c")
    charged(kept, "sums of all")
    kept.remember("sums of all", [np.ones(3)])
    charged(kept)
    kept.save("gradients", State(40, weights(1)))
    members, content = files.read_archive(kept.path), kept.path.read_bytes()
    if change == "flip":
        kept.path.write_bytes(content.replace(b"gradients", b"gradientz", 1))
    elif change == "cut":
        kept.path.write_bytes(content[:-100])
    else:
        forged = {
            "model": {"plan.toml": members["plan.toml"], "guarantee.json": b"{}"},
            "notes": members | {"checkpoint.json": b'{"numbers": 1}'},
            "plan": members | {"plan.toml": b"epsilon = 1"},
            "ledger": members | {"ledger.jsonl": members["ledger.jsonl"][:-1]},
            "released": members | {"released/sums of all": b"\xff" * 20},
            "state": members | {"state/gradients": b""},
        }
        files.write_archive(kept.path, forged[change])

    def read(life):
        return life.recall("sums of all"), life.restore("gradients")

    with pytest.raises(ArtifactError) as caught:
        read(again(kept))
    assert "\n" not in str(caught.value)


def test_its_repr_shows_no_weights(tmp_path):
    assert "tensor" not in repr(State(1, weights(3))) + repr(begun(tmp_path / "c"))


@pytest.mark.parametrize(("before", "deferred"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_ctrl_c_is_deferred_where_it_would_end_the_program_and_left_alone_where_it_is_ignored(
    before, deferred
):
    ours = signal.signal(signal.SIGINT, before)
    try:
        with uninterrupted():
            assert callable(signal.getsignal(signal.SIGINT)) == deferred
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, ours)
