import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from privae.errors import DataError, PrivacyRefused, UsageError
from privae.models import networks
from privae.models.likelihoods import Bernoulli, Categorical, Gappy, Gaussian
from privae.models.networks import RANGE, Network, NetworkConfig, Square
from privae.models.windows import WindowConfig, WindowNetwork
from privae.plan import MICRO_BATCH
from privae.privacy.gradients import Summation
from privae.privacy.noise import NoiseSource
from privae.recipes import gradients
from privae.recipes.gradients import Training
from privae.recipes.modality import recipe_of
from privae.recipes.phases import Budget, Run, budget_of, check_plan, plan_of
from privae.training.loop import Local
from privae.training.watch import Silent
from privae.vae import VAE

SMALL = Training(latent=2, hidden=(8,), steps=4)


def planned(epsilon=math.inf, classes=1, rows=200, training=SMALL, inputs=6):
    network = gradients.default_network(inputs, classes, training)
    budget = Budget(epsilon, 1e-5, rows)
    return plan_of(
        gradients.draft(inputs, classes, network, training, budget), budget, "schema", "source"
    ), network


def started(plan):
    charged = []
    return Run(
        plan, lambda name, event: charged.append((name, event)), NoiseSource(bytes(32)), Silent()
    ), charged


def records(count=200, classes=1):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((count, 6)).astype(np.float32)), rng.integers(
        0, max(classes, 1), count
    )


def test_gradients_need_declared_rows():
    with pytest.raises(UsageError, match="declare --rows"):
        planned(rows=None)


def test_the_phase_says_what_is_released():
    plan, network = planned(classes=3)
    counts, phase = plan.phases
    assert (counts.name, counts.sensitivity, counts.replace_ratio, counts.size) == (
        "label counts",
        1.0,
        math.sqrt(2),
        3,
    )
    assert phase.size == sum(p.numel() for p in network.parameters())
    assert (phase.kind, phase.sampling_rate, phase.steps) == ("gradients", 30 / 200, 4)
    assert [p.name for p in planned(classes=1)[0].phases] == ["gradients"]


@pytest.mark.parametrize(
    ("rows", "batch", "rate"), [(60_000, None, 0.05), (100, None, 0.3), (10, None, 1.0), (100, 25, 0.25)]
)
def test_the_sampling_rate_follows_from_declared_rows(rows, batch, rate):
    assert Training(batch=batch).sampling_rate(rows) == rate


def test_training_charges_once_and_is_what_the_plan_says():
    plan, network = planned(classes=2)
    run, charged = started(plan)
    model = gradients.fit(run, records(classes=2), Bernoulli(6), 2, network)
    assert charged == [(phase.name, phase.event()) for phase in plan.phases]
    assert model.weights.sum().item() == pytest.approx(1)
    assert model.weights.numpy() == pytest.approx(np.bincount(records(classes=2)[1]) / 200, abs=1e-6)


def test_training_lowers_the_loss():
    training = Training(latent=2, hidden=(16,), steps=60, learning_rate=1e-2)
    plan, network = planned(training=training)
    x = (records(200)[0] * 0.2 + torch.tensor([0.8, 0, 0.8, 0, 0.8, 0])).clamp(0, 1)
    y = torch.full((200,), -1)
    run, _ = started(plan)
    before = gradients.default_network(6, 1, training)
    model = gradients.fit(run, (x, y.numpy()), Bernoulli(6), 1, network)
    untrained = type(model)(before, model.likelihood, model.weights, model.latent)
    assert model.log_likelihood(x, y).mean() > untrained.log_likelihood(x, y).mean() + 0.5


class Averaging(nn.Module):
    """A user's own network that subtracts the batch's mean: it mixes records."""

    def __init__(self, mix):
        super().__init__()
        self.inner, self.mix = gradients.default_network(6, 1, SMALL), mix

    def encode(self, x, condition=None):
        return self.inner.encode(x - x.mean(0, keepdim=True) if self.mix and x.ndim > 1 else x, condition)

    def decode(self, z, condition=None):
        return self.inner.decode(z, condition)


class Normed(Averaging):
    def __init__(self):
        super().__init__(False)
        self.norm = nn.BatchNorm1d(6)


class Crowded(Averaging):
    """Mixes only in blocks as large as training pads to by rule."""

    def encode(self, x, condition=None):
        if x.ndim == 2 and len(x) >= 64:
            x = x + 100 * (x[:, :1].amax(0) > 0.5)
        return super().encode(x, condition)


class Keeping(Averaging):
    def encode(self, x, condition=None):
        self.seen = x.detach()
        return super().encode(x, condition)


class Buffered(Averaging):
    def __init__(self):
        super().__init__(False)
        self.register_buffer("last", torch.zeros(6), persistent=False)


@pytest.mark.parametrize("network", [Averaging(True), Normed(), Crowded(False), Keeping(False), Buffered()])
def test_a_network_that_mixes_records_is_refused_before_anything_is_charged(network):
    plan, _ = planned(classes=1)
    run, charged = started(plan)
    with pytest.raises(PrivacyRefused):
        gradients.fit(run, records(), Bernoulli(6), 1, network)
    assert charged == []
    assert run.noise.numbers_drawn == 0


def test_the_probe_is_drawn_from_the_domain_alone():
    x, noise = gradients._probe(Categorical((2, 3)), 1, 2)
    assert (x.reshape(-1, 5)[:, :2].sum(1) == 1).all()
    assert noise.shape == (len(x), 2)
    again = gradients._probe(Categorical((2, 3)), 1, 2)
    assert torch.equal(x, again[0])


def test_label_counts_that_cannot_be_told_from_none_are_refused():
    plan, network = planned(epsilon=0.5, classes=2)
    run, charged = started(plan)
    with pytest.raises(DataError, match="released number of records"):
        gradients.fit(run, records(3, 2), Bernoulli(6), 2, network)
    assert [name for name, _ in charged] == ["label counts"]


def warmed():
    onehot = torch.nn.functional.one_hot(torch.arange(300) % 2, 2).float().repeat(1, 2)
    return gradients.warm_start(gradients.default_network(4, 1, SMALL), onehot, (2, 2), 1, Silent())


@pytest.mark.usefixtures("tiny")
def test_the_warm_start_is_a_function_of_released_samples():
    threads = torch.get_num_threads()
    first, second = warmed(), warmed()
    assert torch.get_num_threads() == threads
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(a).all()
    assert not first.training


def test_the_first_weights_come_from_a_public_seed():
    torch.manual_seed(5)
    first = gradients.default_network(4, 3, SMALL)
    torch.manual_seed(6)
    again = gradients.default_network(4, 3, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.config.condition == 3
    assert gradients.default_network(4, 1, SMALL).config.condition == 0


@pytest.mark.parametrize("expected", [1.0, 30.0, 200.0, 1e4])
def test_the_charged_slack_covers_every_block_on_either_path(expected):
    least, most = MICRO_BATCH
    assert least <= gradients._block(expected) <= most
    plan, network = planned(epsilon=1.0)
    charged = plan.phases[-1].mechanism().slack
    own = Network(NetworkConfig(inputs=6, latent=2, hidden=()))
    drawn = nn.Conv1d(1, 1, 3, padding=1)
    loss, probe = gradients.negative_elbo(Bernoulli(6), 1), gradients._probe(Bernoulli(6), 1, 2)
    for model, made in (
        (network, loss),
        (own, loss),
        (drawn, lambda m, p: m(p[0].unsqueeze(-2)).square().sum((-1, -2))),
    ):
        planned_sum = Summation("by rule", "proved", gradients._block(expected), bfloat16=True)
        summation = gradients.checked(model, made, probe, planned_sum)
        assert summation.slack <= charged
        assert isinstance(model, Network) or summation.micro_batch == least


@pytest.mark.parametrize(
    "training",
    [
        SMALL,
        Training(hidden=(32, 16), steps=7, batch=50, clip_norm=0.3, learning_rate=1e-4, optimizer="sgd"),
        Training(hidden=(), clipping="flat", clip_quantile=0.5, precision="float32", bfloat16=False),
        Training(batch=10**6),
        Training(hidden=(8,), activation="silu"),
        Training(hidden=(8,), activation="square"),
        Training(hidden=(8,), network="convolution"),
        Training(network="recurrent"),
    ],
)
def test_a_plan_tells_the_training_that_it_was_made_with(training):
    """Planned again from it, the phases and settings are the same: what an audit fits again is the same plan."""
    plan, _ = planned(training=training)
    again, _ = planned(training=Training.of(plan))
    assert again.phases == plan.phases
    assert again.settings == plan.settings


def test_a_plan_without_gradients_has_the_default_training():
    plan, _ = planned()
    statistic = plan.phases[0].model_copy(update={"name": "tables", "kind": "statistics"})
    assert Training.of(plan.model_copy(update={"phases": (statistic,)})) == Training()
    styled = plan.model_copy(update={"phases": (statistic,), "settings": {"activation": "square"}})
    assert Training.of(styled) == Training(activation="square")
    windowed = plan.model_copy(update={"phases": (statistic,), "settings": {"network": "recurrent"}})
    assert Training.of(windowed) == Training(network="recurrent")


def test_a_plan_names_an_activation_only_where_it_is_not_the_default_one():
    """Plans without one stay, by their hash, what they were."""
    assert "activation" not in planned()[0].settings
    plan, network = planned(training=Training(latent=2, hidden=(8,), activation="square"))
    assert plan.settings["activation"] == "square"
    assert network.config.activation == "square"
    assert network.training


def test_local_steps_and_the_penalty_of_squares_are_not_combined():
    with pytest.raises(UsageError, match="not combined with local steps"):
        planned(training=Training(activation="square", local=Local()))


def test_a_plan_names_the_form_of_a_network_only_where_it_is_no_perceptron():
    assert "network" not in planned()[0].settings
    assert planned(training=Training(network="recurrent"))[0].settings["network"] == "recurrent"
    with pytest.raises(UsageError, match="activations are for perceptrons"):
        planned(training=Training(network="convolution", activation="square"))


def test_networks_of_windows_are_for_series():
    gradients.check_plain(Training())
    for form in ("convolution", "recurrent"):
        with pytest.raises(UsageError, match=r"^convolution and recurrent networks are for series$"):
            gradients.check_plain(Training(network=form))


@pytest.mark.parametrize(("kind", "windows"), [("convolution", 2), ("recurrent", 1)])
def test_networks_of_windows_are_trained_by_rule_on_codes_of_every_window(kind, windows):
    config = WindowConfig(kind=kind, windows=windows, steps=6, latent=2, hidden=(4,))
    network = WindowNetwork.from_config(config.model_dump(), torch.Generator().manual_seed(0))
    training = Training(latent=2, steps=25, learning_rate=3e-2, network=kind)
    budget = Budget(math.inf, 1e-5, 200)
    plan = plan_of(gradients.draft(config.inputs, 1, network, training, budget), budget, "schema", "source")
    run, charged = started(plan)
    values = torch.linspace(-0.5, 0.5, config.inputs // 2).repeat(200, 1)
    x, y = torch.cat((values, torch.ones_like(values)), 1), torch.full((200,), -1)
    before = copy.deepcopy(network)
    model = gradients.fit(run, (x, y.numpy()), Gappy(config.inputs), 1, network)
    assert {name for name, _ in charged} == {"gradients"}
    assert model.latent == config.codes
    untrained = type(model)(before, model.likelihood, model.weights, model.latent)
    assert model.log_likelihood(x, y).mean() > untrained.log_likelihood(x, y).mean() + 3


def squared(epsilon):
    """A VAE of digits fitted by gradients, the digits [n, 8, 8], and the largest numbers its activations are given."""
    digits = (load_digits().images * 255 / 16).astype(np.uint8)
    training = Training(latent=4, hidden=(16,), steps=150, batch=200, learning_rate=3e-2, activation="square")
    fitted = VAE(epsilon, 1e-5, rows=1800, recipe="gradients", training=training)
    fitted.fit(digits, noise=NoiseSource(bytes(32)))
    network = fitted.fitted_.model.network
    with torch.no_grad():
        x = torch.from_numpy(digits).flatten(1) / 255
        inside = network.encoder.body[0](x), network.decoder.body[0](network.encode(x)[0])
    return fitted, digits, [float(u.abs().max()) for u in inside]


def test_a_polynomial_vae_learns_digits_within_its_range(tmp_path):
    fitted, digits, largest = squared(3.0)
    assert fitted.guarantee.epsilon <= 3.0
    # left by a little, where the loss gains by it or noise moved the weights
    assert max(largest) < 1.4 * RANGE
    x, decoded = digits.reshape(-1, 64) / 255, -fitted.fitted_.parts(digits)["distance"]
    assert (decoded**2).mean() < 0.9 * np.square(x - x.mean(0)).sum(1).mean()
    assert fitted.score_samples(digits).mean() > fitted.score_samples(255 - digits).mean()
    fitted.save(tmp_path / "digits.privae")
    again = VAE.load(tmp_path / "digits.privae")
    assert again.fitted_.model.likelihood == Gaussian(64)
    assert (again.score_samples(digits) == fitted.score_samples(digits)).all()
    assert (again.transform(digits) == fitted.transform(digits)).all()
    assert (again.sample(5, seed=1) == fitted.sample(5, seed=1)).all()
    assert again._twin()[0].plan(again.fitted_.schema) == fitted.plan_
    recipe = recipe_of(again.fitted_.schema, again.plan_)
    check_plan(again.plan_, recipe.draft(budget_of(again.plan_)))


def test_a_range_that_is_not_trained_for_is_left(monkeypatch):
    """The law above is one of the penalty, not of these digits."""
    monkeypatch.setitem(networks._ACTIVATIONS, "square", lambda: Square(weight=0.0))
    assert max(squared(math.inf)[2]) > 1.4 * RANGE
