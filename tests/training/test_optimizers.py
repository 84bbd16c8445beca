import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privae.errors import ArtifactError, UsageError
from privae.privacy.gradients import Summation, clipped_gradient_sum
from privae.training.optimizers import Adam, Average, CorrectedAdam, FlatParameters, Sgd, optimizer_of

STEPS, P = 20, 37
MAKERS = {
    "sgd": Sgd,
    "momentum": lambda: Sgd(0.9),
    "adam": Adam,
    "corrected": lambda: CorrectedAdam(0.3),
}
THEIRS = {
    "sgd": lambda values: torch.optim.SGD([values], lr=1.0),
    "momentum": lambda values: torch.optim.SGD([values], lr=1.0, momentum=0.9),
    "adam": lambda values: torch.optim.Adam([values], lr=1.0),
    "betas": lambda values: torch.optim.Adam([values], lr=1.0, betas=(0.5, 0.9), eps=0.1),
}
OURS = MAKERS | {"betas": lambda: Adam((0.5, 0.9), 0.1)}


def gradients(dtype=torch.float64, steps=STEPS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(P, generator=generator, dtype=dtype) for _ in range(steps)]


def rate(step: int) -> float:
    return 0.1 / (step + 1)


def after(optimizer, given_gradients, values, first=0):
    for step, gradient in enumerate(given_gradients):
        optimizer.step(values, gradient, rate(first + step))
    return values


def torch_after(make, given_gradients, values):
    optimizer = make(values)
    for step, gradient in enumerate(given_gradients):
        values.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
    return values


def floor(std: float, decay: float, steps: int) -> float:
    """What the corrected second moment is at least, after that many steps."""
    left = decay**steps
    return std**2 * math.sqrt(2 * (1 - decay) * (1 + left) / ((1 + decay) * (1 - left)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2), nn.LayerNorm(2))


# the trajectories


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_steps_are_those_of_torch(name, dtype, off):
    start = gradients(dtype, 1, seed=9)[0]
    ours = after(OURS[name](), gradients(dtype), start.clone())
    theirs = torch_after(THEIRS[name], gradients(dtype), start.clone())
    assert (ours - theirs).abs().max() <= off
    assert (ours - start).abs().max() > 0.01


def test_without_noise_the_corrected_adam_is_adam():
    start = torch.zeros(P, dtype=torch.float64)
    corrected = after(CorrectedAdam(0.0), gradients(), start.clone())
    assert (corrected - after(Adam(), gradients(), start.clone())).abs().max() <= 1e-12


def test_a_first_corrected_step_by_hand():
    # t = 1: m = g = 3, v = 9, less the noise's 4; the floor 4 sqrt(2) = 5.66 is above 5
    values = torch.zeros(2, dtype=torch.float64)
    CorrectedAdam(2.0, eps=0.0).step(values, torch.tensor([3.0, 6.0], dtype=torch.float64), 1.0)
    assert values.tolist() == pytest.approx([-3 / math.sqrt(4 * math.sqrt(2)), -6 / math.sqrt(36 - 4)])


def test_two_corrected_steps_follow_the_formula():
    values = torch.zeros(1, dtype=torch.float64)
    optimizer = CorrectedAdam(1.0, betas=(0.5, 0.5), eps=0.25)
    expected = 0.0
    first = second = 0.0
    for step, gradient in enumerate((5.0, 0.5), 1):
        optimizer.step(values, torch.tensor([gradient], dtype=torch.float64), 0.1)
        first, second = (first + gradient) / 2, (second + gradient**2) / 2
        mean, square = first / (1 - 0.5**step), second / (1 - 0.5**step)
        expected -= 0.1 * mean / (math.sqrt(max(square - 1, floor(1.0, 0.5, step))) + 0.25)
    assert values.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_the_floor_is_how_far_noise_alone_scatters_the_second_moment(steps):
    # p = 200,000 moments of pure noise, fixed key: the standard error of a standard deviation of these sums is
    # below sqrt(15 / p) = 0.9 % of it (kurtosis of a chi square at most 15); band 5 %, false alarms below 1e-7
    generator = torch.Generator().manual_seed(1)
    second, decay, std = torch.zeros(200_000, dtype=torch.float64), 0.9, 0.7
    for _ in range(steps):
        noise = std * torch.randn(200_000, generator=generator, dtype=torch.float64)
        second.mul_(decay).add_(noise.square(), alpha=1 - decay)
    scatter = (second / (1 - decay**steps)).std().item()
    assert floor(std, decay, steps) == pytest.approx(scatter, rel=0.05)


def test_the_correction_undoes_what_noise_takes_from_small_gradients():
    # signs of a weak gradient under noise four times as strong: Adam's step is about 1/4 of the rate, the
    # corrected one more than twice that; 1,000 numbers, 400 steps, fixed key
    generator = torch.Generator().manual_seed(2)
    moved = []
    for optimizer in (Adam(betas=(0.99, 0.999)), CorrectedAdam(0.4, betas=(0.99, 0.999))):
        values = torch.zeros(1000, dtype=torch.float64)
        for _ in range(400):
            gradient = 0.1 + 0.4 * torch.randn(1000, generator=generator, dtype=torch.float64)
            optimizer.step(values, gradient, 1 / 400)
        moved.append(-values.mean().item())
    assert moved[0] == pytest.approx(0.25, abs=0.03)
    assert moved[1] > 0.6


def test_a_noise_that_grows_is_taken_off_as_much_as_it_has_come_in():
    # decay 1/2: of the stds 1 and 3 the later one weighs twice, so (1 + 2 * 9) / 3 of v is noise
    values, optimizer = torch.zeros(1, dtype=torch.float64), CorrectedAdam(1.0, betas=(0.0, 0.5), eps=0.0)
    for std, gradient in ((1.0, 0.0), (3.0, 10.0)):
        optimizer.noise_std, before = std, values.item()
        optimizer.step(values, torch.tensor([gradient], dtype=torch.float64), 1.0)
    assert before - values.item() == pytest.approx(10 / math.sqrt((2 * 100 - 19) / 3))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(0.01, 10))
@settings(max_examples=40, deadline=None)
def test_a_corrected_step_is_never_longer_than_its_floor_allows(found, std):
    optimizer, values = CorrectedAdam(std), torch.zeros(1, dtype=torch.float64)
    mean = 0.0
    for step, gradient in enumerate(found, 1):
        before, mean = values.item(), 0.9 * mean + 0.1 * gradient
        optimizer.step(values, torch.tensor([gradient], dtype=torch.float64), 1.0)
        longest = abs(mean) / (1 - 0.9**step) / math.sqrt(floor(std, 0.999, step))
        assert abs(values.item() - before) <= longest * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("name", MAKERS)
def test_a_gradient_stays_as_it_is_and_may_come_in_float64(name):
    gradient = gradients(steps=1)[0]
    kept, values = gradient.clone(), torch.zeros(P)
    MAKERS[name]().step(values, gradient, 0.1)
    assert torch.equal(gradient, kept)
    assert values.dtype == torch.float32
    assert values.any()


# going on


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_loaded_optimizer_goes_on_bit_for_bit(name, before):
    found = gradients(torch.float32)
    straight = after(MAKERS[name](), found, torch.zeros(P))
    first = MAKERS[name]()
    values = after(first, found[:before], torch.zeros(P))
    second = MAKERS[name]()
    second.load(first.state())
    assert torch.equal(after(second, found[before:], values, before), straight)


@pytest.mark.parametrize("name", ["momentum", "adam", "corrected"])
def test_a_state_is_a_copy_that_later_steps_leave_alone(name):
    optimizer, values = MAKERS[name](), torch.zeros(P)
    after(optimizer, gradients(steps=2), values)
    state = optimizer.state()
    kept = {key: value.clone() for key, value in state.items()}
    other = MAKERS[name]()
    other.load(state)
    after(optimizer, gradients(steps=1), values)
    after(other, gradients(steps=1), values)
    assert all(torch.equal(state[key], value) for key, value in kept.items())


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_of_another_kind_is_refused(name):
    other = {"sgd": "adam", "momentum": "sgd", "adam": "corrected", "corrected": "adam"}[name]
    used = MAKERS[other]()
    after(used, gradients(steps=1), torch.zeros(P))
    for state in (used.state(), {}, {"count": torch.tensor(-1)}, {"count": torch.tensor([1, 2])}):
        with pytest.raises(ArtifactError, match="another kind"):
            MAKERS[name]().load(state)


@pytest.mark.parametrize("values", [torch.zeros(P + 1), torch.zeros(P, dtype=torch.float64)])
def test_a_state_of_another_model_is_refused(values):
    used, fresh = Adam(), Adam()
    used.step(torch.zeros(P), torch.zeros(P), 0.1)
    fresh.load(used.state())
    with pytest.raises(ArtifactError, match="another model"):
        fresh.step(values, torch.zeros_like(values), 0.1)


# the average


def test_an_average_forgets_its_zeros_and_weighs_the_last_most():
    average = Average(0.5)
    for value in (0.5, 0.25):
        average.update(torch.tensor([value]))
    assert average.result(torch.tensor([9.0])).item() == pytest.approx(1 / 3)


@given(st.floats(0.01, 0.99), st.lists(st.floats(-5, 5), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_an_average_is_the_weighted_mean_that_it_says(decay, found):
    average = Average(decay)
    for value in found:
        average.update(torch.tensor([value], dtype=torch.float64))
    weights = [decay ** (len(found) - 1 - i) for i in range(len(found))]
    expected = sum(w * v for w, v in zip(weights, found, strict=True)) / sum(weights)
    assert average.result(torch.zeros(1)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("average", [Average(0.0), Average(0.9)], ids=["no decay", "no update"])
def test_where_nothing_is_averaged_the_values_are_the_result(average):
    values = torch.ones(3)
    if not average.decay:
        average.update(torch.zeros(3))
    assert average.result(values) is values


def test_a_result_is_a_copy_and_updates_leave_the_values_alone():
    average, values = Average(0.9), torch.ones(3)
    average.update(values)
    average.result(values).zero_()
    assert average.result(values).tolist() == pytest.approx([1.0] * 3)
    assert values.tolist() == [1.0] * 3


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_loaded_average_goes_on_bit_for_bit(decay):
    straight, first, second = Average(decay), Average(decay), Average(decay)
    found = gradients(torch.float32, 6)
    for value in found:
        straight.update(value)
    for value in found[:3]:
        first.update(value)
    second.load(first.state())
    for value in found[3:]:
        second.update(value)
    assert torch.equal(second.result(found[-1]), straight.result(found[-1]))
    with pytest.raises(ArtifactError):
        Average(0.9 - decay).load(first.state())


# the choice


@pytest.mark.parametrize(("name", "kind"), [("sgd", Sgd), ("adam", Adam), ("adam corrected", CorrectedAdam)])
def test_an_optimizer_is_named_by_the_plan(name, kind):
    optimizer = optimizer_of(name, momentum=0.25, noise_std=0.5)
    assert type(optimizer) is kind
    assert getattr(optimizer, "momentum", 0.25) == 0.25
    assert getattr(optimizer, "noise_std", 0.5) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizer_of("rmsprop"),
        lambda: Sgd(1.0),
        lambda: Sgd(-0.1),
        lambda: Adam((1.0, 0.9)),
        lambda: Adam((0.9, math.nan)),
        lambda: CorrectedAdam(-1.0),
        lambda: CorrectedAdam(math.inf),
        lambda: CorrectedAdam(math.nan),
        lambda: CorrectedAdam(1.0, (0.9, 1.0)),
        lambda: Average(1.0),
    ],
)
def test_an_optimizer_that_cannot_be_is_a_usage_error(make):
    with pytest.raises(UsageError):
        make()


# the flat vector


def test_within_the_parameters_are_views_of_the_values_in_order():
    model = network()
    expected = nn.utils.parameters_to_vector(model.parameters()).detach()
    with FlatParameters(list(model.parameters())) as flat:
        assert torch.equal(flat.values, expected)
        assert not flat.values.requires_grad
        flat.values.add_(1)
        assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), expected + 1)
        with torch.no_grad():
            model[2].bias.fill_(7)
        assert (flat.values == 7).sum() == 2


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_outside_each_parameter_lies_where_it_lay_and_has_the_new_values(error):
    model = network()
    model[2].weight.grad = torch.ones_like(model[2].weight)
    before = {name: (p, p.data_ptr(), p.stride(), p.grad) for name, p in model.named_parameters()}
    outside = {name: p.detach() for name, p in model.named_parameters()}
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        with FlatParameters(list(model.parameters())) as flat:
            flat.values.add_(1)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    for name, p in model.named_parameters():
        assert (p.data_ptr(), p.stride()) == before[name][1:3]
        assert p is before[name][0]
        assert p.grad is before[name][3]
        assert p.requires_grad
        assert torch.equal(p, old[name] + 1)
        assert torch.equal(outside[name], old[name] + 1)


def test_channels_last_weights_keep_their_strides_and_their_order():
    model = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    strides, weight = model.weight.stride(), model.weight.detach().clone()
    assert not model.weight.is_contiguous()
    with FlatParameters(list(model.parameters())) as flat:
        assert torch.equal(flat.values[: weight.numel()].view(weight.shape), weight)
        assert torch.equal(model.weight, weight)
        flat.values.mul_(2)
    assert model.weight.stride() == strides
    assert torch.equal(model.weight, 2 * weight)


def test_frozen_parameters_and_buffers_are_left_alone():
    model = network()
    model[0].requires_grad_(False)
    model.register_buffer("count", torch.ones(2))
    frozen = model[0].weight.data_ptr()
    with FlatParameters([p for p in model.parameters() if p.requires_grad]) as flat:
        assert model[0].weight.data_ptr() == frozen
        flat.values.zero_()
    assert model[0].weight.abs().sum() > 0
    assert model.count.tolist() == [1.0, 1.0]


def test_a_tied_parameter_stays_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with FlatParameters(list(model.parameters())) as flat:
        assert flat.values.numel() == 9 + 3 + 3
        flat.values.fill_(2)
        assert model[1].weight.eq(2).all()
    assert model[1].weight is model[0].weight
    assert model[1].weight.eq(2).all()


def test_one_flat_vector_may_lie_within_another():
    model = nn.Linear(2, 2)
    with FlatParameters(list(model.parameters())) as outer:
        with FlatParameters([model.bias]) as inner:
            inner.values.fill_(5)
        assert outer.values[-2:].tolist() == [5.0, 5.0]


def test_the_same_parameters_can_be_made_flat_again():
    model = nn.Linear(2, 2)
    flat = FlatParameters(list(model.parameters()))
    for _ in range(2):
        with flat:
            flat.values.fill_(1.0)
            flat.values.add_(1.0)
    assert all(p.eq(2).all() for p in model.parameters())


def test_scalars_and_empty_parameters_have_their_place():
    parameters = [
        nn.Parameter(torch.tensor(3.0)),
        nn.Parameter(torch.zeros(0, 4)),
        nn.Parameter(torch.ones(2)),
    ]
    with FlatParameters(parameters) as flat:
        assert flat.values.tolist() == [3.0, 1.0, 1.0]
        flat.values.neg_()
    assert parameters[0].item() == -3.0
    assert parameters[1].shape == (0, 4)


def interleaved():
    whole = torch.zeros(4)
    return [nn.Parameter(whole[:3]), nn.Parameter(whole[2:])]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [],
        lambda: [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))],
        lambda: [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))],
        lambda: [nn.Parameter(torch.ones(1).expand(3))],
        lambda: [nn.Parameter(torch.ones(2))] * 2,
        interleaved,
    ],
    ids=["none", "types", "devices", "expanded", "twice", "overlapping"],
)
def test_parameters_that_cannot_be_one_vector_are_a_usage_error(make):
    with pytest.raises(UsageError):
        FlatParameters(make())


def test_gradients_reach_view_parameters_and_a_step_on_the_values_moves_the_model():
    # in float64: Adam makes a step of any gradient, also of one that is a rounding, which processors do differently
    model, plain, x = network().double(), network().double(), torch.randn(5, 1, 4, 4, dtype=torch.float64)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1)
    with FlatParameters(list(model.parameters())) as flat:
        ours = Adam()
        for _ in range(5):
            found = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
            ours.step(flat.values, torch.cat([g.reshape(-1) for g in found]), 0.1)
            optimizer.zero_grad()
            plain(x).square().sum().backward()
            optimizer.step()
    for left, right in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def test_per_record_gradients_by_vmap_are_the_same_on_view_parameters():
    model, x = network().double(), torch.randn(4, 1, 4, 4, dtype=torch.float64)

    def one(values, record):
        return torch.func.functional_call(model, values, (record[None],)).square().sum()

    def rows():
        values = {name: p.detach() for name, p in model.named_parameters()}
        found = torch.func.vmap(torch.func.grad(one), (None, 0))(values, x)
        return torch.cat([g.reshape(4, -1) for g in found.values()], 1)

    before = rows()
    with FlatParameters(list(model.parameters())) as flat:
        assert torch.allclose(rows(), before, atol=1e-12)
        flat.values.mul_(1.5)
        assert not torch.allclose(rows(), before, atol=1e-3)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_clipped_sums_are_the_same_on_view_parameters(path):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), torch.randn(5, 3).double()

    def loss(model, parts):
        return model(parts[0]).square().sum(-1)

    def total():
        return clipped_gradient_sum(model, loss, (x,), 0.3, Summation(path, micro_batch=3))

    before = total()
    with FlatParameters(list(model.parameters())) as flat:
        assert torch.equal(total(), before)
        flat.values.mul_(1.5)
        changed = total()
        assert torch.allclose(
            changed,
            clipped_gradient_sum(copy.deepcopy(model), loss, (x,), 0.3, Summation(path, micro_batch=3)),
        )
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(total(), changed)


def test_a_deep_copy_made_within_is_a_model_of_its_own():
    model = network()
    with FlatParameters(list(model.parameters())) as flat:
        twin = copy.deepcopy(model)
        kept = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
        flat.values.zero_()
        assert torch.equal(nn.utils.parameters_to_vector(twin.parameters()), kept)
        assert all(p.untyped_storage().size() == 4 * p.numel() for p in twin.parameters())
    assert all(not p.any() for p in model.parameters())
