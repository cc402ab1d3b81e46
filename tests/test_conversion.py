"""What a conversion gives: the same outputs, the same flags, channels in a good order."""

import copy
import warnings

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import NETWORKS, converted
from torch import nn

from integralrob import quadrature
from integralrob.conversion import convert
from integralrob.conversion.check import relative_difference
from integralrob.conversion.example import outputs_by_module, outputs_of
from integralrob.conversion.ordering import channel_distance, path_length
from integralrob.nn import Sampling

pytest.importorskip("torch_pruning")


SUPPLEMENT = Sampling("endpoints", quadrature.Trapezoidal(), a=-0.75, padding="zeros", antialias=False)


def snapshot(model: nn.Module) -> list[object]:
    return [
        copy.deepcopy(model.state_dict()),
        [(name, p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()],
        [(name, type(module), module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
    ]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("order", ["shortest_path", "two_opt", None, lambda distance: np.arange(len(distance))[::-1]])
def test_outputs_at_full_size_are_the_discrete_networks(network, order):
    model, _, integral = converted(network, order=order)
    x = models.example(network, seed=7)  # other than what it was converted on
    assert relative_difference(integral(x), model(x)) < 3e-6
    double = convert(model.double(), x.double(), order=order, progress=False)
    assert relative_difference(double(x.double()), model(x.double())) < 1e-13


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_at_full_size_with_another_quadrature_and_kernel(network):
    model, x, integral = converted(network, sampling=SUPPLEMENT)
    assert relative_difference(integral(x), model(x)) < 3e-6
    assert {group.partition.kind for group in integral.groups.values()} == {"endpoints"}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_model_is_left_as_it_was(network):
    model, x = models.seeded(network).train(), models.example(network)
    model(x).sum().backward()
    next(iter(model.parameters())).requires_grad_(False)
    list(model.children())[-1].eval()
    before, random_state = snapshot(model), torch.get_rng_state()
    integral = convert(model, x, progress=False)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in integral.parameters()}
    assert not shared


def test_outputs_are_compared_without_tf32():
    """On a GPU it is the default of convolutions, and as coarse as the comparison."""
    seen, precision = [], torch.backends.cudnn.conv

    class Spy(models.MLP):
        def forward(self, x):
            seen.append(precision.fp32_precision)
            return super().forward(x)

    before = precision.fp32_precision
    outputs_of(Spy(), models.example(models.MLP))
    outputs_by_module(Spy(), models.example(models.MLP))
    assert seen == ["ieee", "ieee"]
    assert precision.fp32_precision == before != "ieee"


def test_flags_go_over_to_the_result():
    model, x = models.seeded(models.PlainCNN).train(), models.example(models.PlainCNN)
    model.fc1.eval()
    model.fc2.requires_grad_(False)
    integral = convert(model, x, progress=False)
    assert integral.training
    assert integral.module.conv1.training
    assert not integral.module.fc1.training
    assert not integral.module.fc2.weight.requires_grad
    assert integral.module.fc1.weight.requires_grad
    integral.resize(0.5)
    discrete = integral.discretize()
    assert discrete.training
    assert not discrete.fc1.training
    assert not discrete.fc2.weight.requires_grad


def test_a_model_that_draws_random_numbers_converts_and_leaves_their_state():
    model, x = models.seeded(models.Noisy), models.example(models.Noisy)
    state = torch.get_rng_state()
    integral = convert(model, x, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(integral.groups) == ["0", "2"]


def test_converts_in_inference_mode_too():
    model = models.seeded(models.PlainCNN)
    with torch.inference_mode():
        x = models.example(models.PlainCNN)
        integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["conv1", "conv2", "fc1"]
    integral.resize(0.5)
    integral(x.clone()).sum().backward()
    assert integral.module.conv1.weight.grad.any()


def test_a_frozen_network_converts_and_stays_frozen():
    model = models.seeded(models.PlainCNN).requires_grad_(False)
    x = models.example(models.PlainCNN)
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["conv1", "conv2", "fc1"]
    assert not any(p.requires_grad for p in integral.parameters())


def test_inputs_can_be_tuples_and_dicts():
    class Two(nn.Module):
        example_shape = (3, 6)

        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 8), nn.Embedding(5, 8), nn.Linear(8, 2)
            self.hidden = nn.Linear(8, 8)

        def forward(self, x, index):
            return self.head(F.relu(self.hidden(self.a(x) + self.b(index))))

    model, x, index = models.seeded(Two), models.example(Two), torch.tensor([0, 4, 2])
    for inputs in ((x, index), [x, index], {"x": x, "index": index}):
        integral = convert(model, inputs, progress=False)
        assert list(integral.groups) == ["a", "hidden"]
        assert [(m.layer, m.dim) for m in integral.groups["a"].members] == [("a", 0), ("b", 0), ("hidden", 1)]
        assert relative_difference(integral(x, index=index), model(x, index)) < 3e-6


def test_a_network_that_writes_to_its_input_converts():
    class InPlace(models.MLP):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model, x = models.seeded(InPlace), models.example(InPlace)
    before = x.clone()
    assert list(convert(model, x, progress=False).groups) == ["0", "2"]
    assert torch.equal(x, before)


def test_a_networks_own_rounding_is_no_fault_of_the_conversion():
    class Steep(models.MLP):
        def forward(self, x):
            return (2000 * super().forward(x)).sin()

    model, x, integral = converted(Steep)
    assert list(integral.groups) == ["0", "2"]
    assert 1e-5 < relative_difference(integral(x), model(x)) < 1e-3
    double = convert(model.double(), x.double(), progress=False)
    assert relative_difference(double(x.double()), model(x.double())) < 1e-10


def test_channels_are_permuted_consistently_and_closer_to_their_neighbours():
    model, _, integral = converted(models.MLP)
    group = integral.groups["0"]
    order = np.array(group.order)
    assert sorted(order) == list(range(24))
    assert torch.equal(integral.module[0].weight, model[0].weight[order])
    assert torch.equal(integral.module[0].bias, model[0].bias[order])
    second = np.array(integral.groups["2"].order)
    assert torch.equal(integral.module[2].weight, model[2].weight[second][:, order])
    distance = channel_distance([model[0].weight, model[0].bias[:, None], model[2].weight.T])
    assert path_length(distance, order) < 0.9 * path_length(distance, np.arange(24))


def test_a_function_may_order():
    seen = []

    def backwards(distance):
        seen.append(distance.shape)
        return np.arange(len(distance))[::-1]

    model, _, integral = converted(models.MLP, order=backwards)
    assert seen == [(24, 24), (16, 16)]
    assert torch.equal(integral.module[0].weight, model[0].weight.flip(0))


def test_smooth_networks_keep_more_when_ordered():
    # Channels sampled from a smooth function, then shuffled: ordering finds the function again.
    t = (torch.arange(64) + 0.5) / 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
        frequencies = torch.randn(4), torch.randn(3)
        shuffle = torch.randperm(64)
    with torch.no_grad():
        model[0].weight.copy_(torch.cos(3 * t[:, None] * frequencies[0])[shuffle])
        model[0].bias.copy_(torch.sin(2 * t)[shuffle])
        model[2].weight.copy_(torch.cos(3 * t * frequencies[1][:, None])[:, shuffle] / 64)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    errors = {}
    for order in ("shortest_path", "two_opt", None):
        integral = convert(model, x, order=order, progress=False)
        integral.resize(0.25)
        errors[order] = relative_difference(integral(x), model(x))
    assert max(errors["shortest_path"], errors["two_opt"]) < 0.01 < 0.1 < errors[None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model, x = models.seeded(models.PlainCNN).to(dtype), models.example(models.PlainCNN).to(dtype)
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["conv1", "conv2", "fc1"]
    assert {parameter.dtype for parameter in integral.parameters()} == {dtype}
    assert relative_difference(integral(x), model(x)) < 64 * torch.finfo(dtype).eps
    integral.resize(0.5)
    assert integral(x).dtype == dtype
    assert torch.equal(integral.discretize()(x), integral(x))


def test_dropout_is_off_while_groups_are_looked_for_and_on_in_training_as_before():
    model = nn.Sequential(nn.Linear(12, 24), nn.Dropout(0.5), nn.ReLU(), nn.Linear(24, 3)).train()
    x = models.example(models.MLP)
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["0"]
    assert integral.training
    assert not torch.equal(integral(x), integral(x))
    integral.resize(0.5)
    assert not torch.equal(integral(x), integral(x))
    torch.testing.assert_close(integral.eval()(x), integral.discretize()(x))
    integral.resize(1.0)
    torch.testing.assert_close(integral(x), copy.deepcopy(model).eval()(x))


def test_progress_is_shown_only_when_asked(capfd):
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(model, x, progress=False)
        assert capfd.readouterr().err == ""
        convert(model, x)
        assert "ordering channels" in capfd.readouterr().err
