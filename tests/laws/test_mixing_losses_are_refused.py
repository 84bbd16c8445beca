"""Law: a loss in which one record moves another's, or a model that keeps what it sees, never trains."""

import copy
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from privae.errors import PrivacyRefused
from privae.privacy.gradients import Summation, refuse_mixing, refuse_mixing_in_blocks, supported


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


class InFullBlocks(nn.Module):
    """Mixes records, by `how`, only where there are more of them than a small probe has."""

    def __init__(self, how, above=64) -> None:
        super().__init__()
        self.how, self.above, self.linear = how, above, nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(self.how(x) if x.ndim == 2 and len(x) > self.above else x)


def shifted_by_a_maximum(x):
    return x + 100 * (x[:, :1].amax(0) > 0.5)


def shifted_by_a_far_record(x):
    return x + 100 * (x[:, 0].max() > 3 * x[:, 0].median())


def last_record_over_all(x):
    return x + 1e-3 * x[-1]


def by_place(x):
    return x * torch.linspace(1, 2, len(x), dtype=x.dtype)[:, None]


@pytest.mark.parametrize(
    "how", [shifted_by_a_maximum, shifted_by_a_far_record, last_record_over_all, by_place, torch.zeros_like]
)
@pytest.mark.parametrize("block", [Summation("by rule"), Summation("vmap", micro_batch=128)])
def test_mixing_only_in_full_blocks_is_refused(how, block):
    model = InFullBlocks(how)
    refuse_mixing(model, scores, probe())  # a small probe does not see it
    assert supported(model, scores, probe()) == "by rule"
    with pytest.raises(PrivacyRefused, match="mixes records: a full block moved the losses"):
        refuse_mixing_in_blocks(model, scores, probe(), block)


def test_mixing_that_only_gradients_show_is_refused():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            hidden = self.first(x)
            if x.ndim == 2 and len(x) > 64:
                hidden = hidden + hidden.mean(0) - hidden.mean(0).detach()
            return self.last(hidden)

    model = Backwards()
    refuse_mixing(model, scores, probe())
    assert supported(model, scores, probe()) == "by rule"
    with pytest.raises(PrivacyRefused, match="mixes records: a full block moved the gradients"):
        refuse_mixing_in_blocks(model, scores, probe(), Summation("by rule"))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 512])
@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_a_loss_of_one_record_passes_in_blocks_of_every_size(path, micro_batch):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
    refuse_mixing_in_blocks(model, scores, probe(), Summation(path, micro_batch=micro_batch))


class Keeping(nn.Module):
    """Hands what it sees to `keep`, which puts it somewhere in the model."""

    def __init__(self, keep) -> None:
        super().__init__()
        self.linear, self.keep = nn.Linear(3, 2), keep
        self.table, self.array, self.calls = torch.zeros(3), np.zeros(3), 0
        self.store, self.past, self.box = {"a": []}, deque(maxlen=1), SimpleNamespace(last=None)
        self.names = {"x"}

    def forward(self, x):
        self.keep(self, x.detach())
        return self.linear(x)


def binds(model, x):
    model.seen = x


def rebinds(model, x):
    model.table = x.sum(0)


def fills_in_place(model, x):
    model.table.add_(x.double().reshape(-1, 3).sum(0))


def fills_past_the_version_counter(model, x):
    model.table.data[0] = 1.0


def fills_an_array(model, x):
    model.array[0] += 1.0


def counts(model, x):
    model.calls += 1


def appends(model, x):
    model.store["a"].append(x)


def queues(model, x):
    model.past.append(x)


def hides_in_an_object(model, x):
    model.box.last = x


def hides_in_a_layer(model, x):
    model.linear.seen = x


def adds_a_key(model, x):
    model.store[len(model.store)] = None


def adds_to_a_set(model, x):
    model.names.add("y")


def adds_a_buffer(model, x):
    model.register_buffer("late", x)


def forgets(model, x):
    model.store.clear()


KEEPING = [
    binds,
    rebinds,
    fills_in_place,
    fills_past_the_version_counter,
    fills_an_array,
    counts,
    appends,
    queues,
    hides_in_an_object,
    hides_in_a_layer,
    adds_a_key,
    adds_to_a_set,
    adds_a_buffer,
    forgets,
]


@pytest.mark.parametrize("keep", KEEPING)
def test_a_model_that_keeps_something_in_an_attribute_is_refused(keep):
    with pytest.raises(PrivacyRefused, match="the forward pass changes"):
        refuse_mixing(Keeping(keep), scores, probe())


def in_full_blocks(model, x):
    if len(x) > 64:
        model.seen = x


def one_at_a_time(model, x):
    if x.ndim == 1:
        model.seen = x


def test_a_model_that_keeps_only_full_blocks_or_single_records_is_refused():
    refuse_mixing(Keeping(in_full_blocks), scores, probe())
    with pytest.raises(PrivacyRefused, match="changes 'seen'"):
        refuse_mixing_in_blocks(Keeping(in_full_blocks), scores, probe(), Summation("vmap"))
    refuse_mixing(Keeping(one_at_a_time), scores, probe())
    with pytest.raises(PrivacyRefused, match="changes 'seen'"):
        supported(Keeping(one_at_a_time), scores, probe())


def test_a_model_that_only_holds_constants_passes():
    model = Keeping(lambda model, x: setattr(model, "calls", 0))
    model.cycle, model.kind = [model.past], dict
    model.cycle.append(model.cycle)
    refuse_mixing(model, scores, probe())


def test_a_buffer_that_is_not_saved_is_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_buffer("last", torch.zeros(3), persistent=False)
    with pytest.raises(PrivacyRefused, match=r"buffer '0\.last' is not saved"):
        refuse_mixing(model, scores, probe())
