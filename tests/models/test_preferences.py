"""Preferences: what is recommended, drawn and scored follows from released tensors; files cannot lie about them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from privae.models.preferences import PreferenceModel, nearest


def model(personal=True, latent=2):
    """Six items, of which places 1, 2, 4 and 5 are modeled; 1 and 2 go together, and 4 and 5."""
    weights = torch.zeros(4, 4)
    if personal:
        weights[0, 1] = weights[1, 0] = weights[2, 3] = weights[3, 2] = 0.5
    loadings = torch.tensor([[2.0, 0.1], [2.0, -0.1], [-2.0, 0.1], [-2.0, -0.1]], dtype=torch.float64)
    return PreferenceModel(
        torch.tensor([1, 2, 4, 5]),
        torch.tensor([9.0, 8.0, 1.0, 2.0, 7.0, 6.0], dtype=torch.float64),
        weights,
        torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log(),
        loadings[:, :latent],
        torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
        torch.tensor(0.5, dtype=torch.float64),
    )


def likes(*rows):
    wide = np.zeros((len(rows), 6), np.int64)
    for place, row in enumerate(rows):
        wide[place, row] = 1
    return csr_array(wide)


def test_liked_items_speak_for_others_and_what_is_not_modeled_comes_last_by_popularity():
    scores = model().recommend(likes([1], [4, 0], []))
    assert scores[0].argmax() == 2
    assert scores[1].argmax() == 5
    assert (scores[:2, [0, 3]].max(1) < scores[:2, [1, 2, 4, 5]].min(1)).all()
    assert (scores[:, 0] > scores[:, 3]).all()
    assert np.argsort(-scores[2]).tolist() == [0, 1, 4, 5, 3, 2]  # who likes none: by popularity


def test_popularity_recommends_where_weights_are_none():
    chosen = model(personal=False)
    assert not chosen.personal
    assert np.argsort(-chosen.recommend(likes([1]))[0]).tolist() == [0, 1, 4, 5, 3, 2]


def test_drawn_persons_like_as_many_different_modeled_items_as_lengths_say_and_repeat_by_seed():
    drawn = [model().sample(400, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert (drawn[0] != drawn[1]).nnz == 0
    assert (drawn[0] != drawn[2]).nnz > 0
    counts = np.diff(drawn[0].indptr)
    assert set(counts) == {2, 3}
    assert drawn[0].toarray().max() == 1
    assert drawn[0][:, [0, 3]].nnz == 0
    together = drawn[0].toarray()[counts == 2]
    both = (together[:, 1] * together[:, 2]).mean()
    assert both > 2 * (together[:, 1] * together[:, 4]).mean()
    assert model().sample(0, torch.Generator()).shape == (0, 6)


def test_codes_part_tastes_and_profiles_of_one_taste_are_likelier():
    codes = model().embed(likes([1, 2], [4, 5], [], [0, 3]))
    assert codes[0, 0] > 0.2 > -0.2 > codes[1, 0]
    assert codes[2:] == pytest.approx(np.zeros((2, 2)))
    one, mixed = model().log_likelihood(likes([1, 2], [1, 5]))
    assert one > mixed
    # without loadings it is the multinomial's own
    plain = model(latent=0).log_likelihood(likes([1, 5], []))
    assert plain == pytest.approx([np.log(0.4) + np.log(0.1), 0.0])


def test_the_evidence_is_that_of_an_integral_over_codes_near_zero():
    small = replace(model(), loadings=model().loadings * 0.15)
    z = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.softmax(small.log_shares + z @ small.loadings.T, 1)
    for row, modeled in (([1, 2], [0, 1]), ([1, 5], [0, 3]), ([4, 5], [2, 3])):
        right = shares[:, modeled].prod(1).mean().log().item()
        assert small.log_likelihood(likes(row))[0] == pytest.approx(right, abs=0.02)


def test_nearest_items_have_the_same_direction_and_unmodeled_ones_none():
    speaks = torch.tensor([[0.0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0.5], [0, 0, -0.5, 0]])
    chosen = replace(model(), weights=speaks)
    alike = nearest(chosen, 1)
    assert alike[2] > alike[5]
    assert np.isnan(alike[[0, 3]]).all()
    assert np.isnan(nearest(chosen, 0)).all()


def test_a_model_comes_back_from_its_state_and_tensors_that_do_not_fit_are_refused():
    state = model().state()
    again = PreferenceModel.load(model().config(), state)
    assert (again.recommend(likes([1])) == model().recommend(likes([1]))).all()
    wrong = {
        "kept": [
            torch.tensor([1, 2, 4, 6]),
            torch.tensor([1, 1, 4, 5]),
            torch.tensor([-1, 2, 4, 5]),
            torch.zeros(0).long(),
        ],
        "weights": [torch.zeros(3, 4)],
        "loadings": [
            torch.zeros(3, 2, dtype=torch.float64),
            torch.zeros(4, 99, dtype=torch.float64),
            torch.zeros(4, dtype=torch.float64),
            torch.zeros(4, 2),
            torch.full((4, 2), 1e300, dtype=torch.float64),
        ],
        "popularity": [torch.full((6,), float("nan"), dtype=torch.float64)],
        "lengths": [
            torch.tensor([float("inf"), 1.0, 0.0], dtype=torch.float64),
            torch.tensor([-1.0, 2.0], dtype=torch.float64),
            torch.zeros(3, dtype=torch.float64),
            torch.ones(2, 2, dtype=torch.float64),
            torch.ones(3, dtype=torch.int64),
            torch.tensor(1.0, dtype=torch.float64),
            torch.ones(99, dtype=torch.float64),
        ],
        "within": [torch.zeros(2, dtype=torch.float64), torch.tensor(float("nan"), dtype=torch.float64)],
        "log_shares": [torch.full((4,), -1e300, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match="preferences"):
                PreferenceModel.load({}, {**state, name: value})
    with pytest.raises(KeyError):
        PreferenceModel.load({}, {name: value for name, value in state.items() if name != "kept"})
