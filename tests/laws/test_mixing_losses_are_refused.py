"""Law: a loss in which one record moves another's, or a model that keeps what it sees, never trains."""

import copy

import pytest
import torch
from torch import nn

from privae.errors import PrivacyRefused
from privae.privacy.gradients import refuse_mixing


def probe(n: int = 4):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 3, generator=generator), torch.randint(0, 2, (n,), generator=generator)


def scores(model, parts):
    x, label = parts
    logits = model(x)
    return -logits.log_softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1)


def divided_by_the_batch(model, parts):
    return scores(model, parts) / len(parts[0])


def minus_the_batch_mean(model, parts):
    losses = scores(model, parts)
    return losses - losses.mean()


def contrasted_with_the_next(model, parts):
    return scores(model, parts) + scores(model, tuple(part.roll(1, 0) for part in parts))


def standardized_by_the_batch(model, parts):
    x, label = parts
    return scores(model, ((x - x.mean(0)) / x.std(0), label))


def with_labels_of_others(model, parts):
    return scores(model, parts) * (1 + parts[1].sum())


MIXING = [
    divided_by_the_batch,
    minus_the_batch_mean,
    contrasted_with_the_next,
    standardized_by_the_batch,
    with_labels_of_others,
]


def test_a_loss_of_one_record_passes():
    refuse_mixing(
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)), scores, probe()
    )


@pytest.mark.parametrize("loss", MIXING)
def test_a_loss_that_mixes_records_is_refused(loss):
    with pytest.raises(PrivacyRefused, match="mixes records"):
        refuse_mixing(nn.Linear(3, 2), loss, probe())


def test_mixing_behind_a_layer_of_zeros_is_refused():
    class Centered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 2)
            nn.init.zeros_(self.last.weight)

        def forward(self, x):
            return self.last(x - x.mean(0))

    with pytest.raises(PrivacyRefused, match="mixes records"):
        refuse_mixing(Centered(), scores, probe())


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_refused_by_name(training):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train(training)
    with pytest.raises(PrivacyRefused, match="BatchNorm1d at '1'"):
        refuse_mixing(model, scores, probe())


def test_a_model_that_keeps_what_it_sees_is_refused():
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            self.seen = torch.maximum(self.seen, x.detach().amax(0))
            return self.linear(x)

    with pytest.raises(PrivacyRefused, match="changes 'seen'"):
        refuse_mixing(Remembers(), scores, probe())


def test_a_table_that_rewrites_the_tokens_it_sees_is_refused():
    model = nn.Embedding(4, 2, max_norm=0.01)
    tokens = torch.tensor([0, 1, 2, 3])
    with pytest.raises(PrivacyRefused, match="changes 'weight'"):
        refuse_mixing(model, lambda m, p: m(p[0]).sum(-1), (tokens,))


def test_coins_by_place_in_the_batch_are_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    before = torch.random.get_rng_state()
    with pytest.raises(PrivacyRefused, match="torch's generator"):
        refuse_mixing(model, scores, probe())
    assert torch.equal(before, torch.random.get_rng_state())


def test_probing_leaves_the_model_as_it_was():
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    refuse_mixing(model, scores, probe())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_message_holds_no_value_of_the_probe():
    x, label = probe()
    x[0, 0] = 8675309.0
    with pytest.raises(PrivacyRefused) as refused:
        refuse_mixing(nn.Linear(3, 2), minus_the_batch_mean, (x, label))
    assert "8675309" not in str(refused.value)
