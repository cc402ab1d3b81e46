"""Samples that are kept where no gradient flows: made once, and again when anything that they depend on changes."""

import copy
import pickle
import threading

import models
import pytest
import torch
from models import converted
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from integralrob.nn import ContinuousWeight, IntegralConv2d, IntegralLinear, Sampling
from integralrob.partition import TrainablePartition
from integralrob.quadrature import Trapezoidal


@pytest.fixture
def weight() -> ContinuousWeight:
    continuous = ContinuousWeight((12, 10))
    continuous.resize([8, 6])
    return continuous


@pytest.fixture
def values() -> nn.Parameter:
    return nn.Parameter(torch.randn(12, 10, generator=torch.Generator().manual_seed(0)))


def fresh(weight: ContinuousWeight, values: torch.Tensor) -> torch.Tensor:
    """The sample, by a module that has kept none."""
    return copy.deepcopy(weight)(values.detach().clone())


def assert_made_again(weight: ContinuousWeight, values: torch.Tensor, before: torch.Tensor) -> None:
    with torch.no_grad():
        sample = weight(values)
        assert sample is not before
        assert torch.equal(sample, fresh(weight, values))
        assert weight(values) is sample


# ------------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_sample_is_made_once_where_no_gradient_flows(weight, values, mode):
    with mode():
        sample = weight(values)
        assert weight(values) is sample
    with torch.no_grad():
        assert weight(values) is sample
    values.requires_grad_(False)
    assert weight(values) is sample
    assert not sample.is_inference()


def test_a_pass_with_gradients_makes_its_own_and_frees_the_memory(weight, values):
    with torch.no_grad():
        before = weight(values)
    sample = weight(values)
    assert sample.requires_grad
    sample.sum().backward()
    weight(values).sum().backward()  # each has a graph of its own
    assert_made_again(weight, values, before)


def test_what_was_kept_in_inference_mode_serves_gradients_of_the_input():
    layer = IntegralLinear(8, 6).requires_grad_(False)
    with torch.inference_mode():
        layer(torch.ones(2, 8))
        kept = layer.sample()[0]
    x = torch.ones(2, 8, requires_grad=True)
    layer(x).sum().backward()
    assert layer.sample()[0] is kept
    assert torch.allclose(x.grad, kept.sum(0).expand(2, 8))


# ---------------------------------------------------------------------------------------------- what makes it be made

OPTIMIZERS = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"fused": True}),
    (torch.optim.SGD, {"foreach": True, "momentum": 0.9}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.AdamW, {"foreach": False}),
    (torch.optim.Adagrad, {"fused": True}),
    (torch.optim.LBFGS, {}),
]


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_a_step_of_an_optimizer_is_noticed(weight, values, optimizer, options):
    optimizer = optimizer([values], lr=0.1, **options)
    values.grad = torch.ones_like(values)
    with torch.no_grad():
        before = weight(values)  # after the backward pass, so that nothing but the step can tell
        content = before.clone()
    optimizer.step(lambda: torch.zeros(()))
    assert_made_again(weight, values, before)
    assert not torch.equal(weight(values), content)


def _load(values: nn.Parameter) -> None:
    nn.ParameterList([values]).load_state_dict({"0": torch.ones_like(values)})


CHANGES = {
    "in place": lambda values: values.mul_(2),
    "in inference mode": lambda values: torch.inference_mode()(values.mul_)(2),
    "through a view": lambda values: values[3].zero_(),
    "an alias": lambda values: values.detach().zero_(),
    "load_state_dict": _load,
    "new memory": lambda values: setattr(values, "data", torch.ones(12, 10)),
    "a vector": lambda values: nn.utils.vector_to_parameters(torch.zeros(120), [values]),
    "another dtype": lambda values: setattr(values, "data", values.data.double()),
    "the same dtype again": lambda values: setattr(values, "data", values.data.bfloat16().float()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_control_values_is_noticed(weight, values, change):
    with torch.no_grad():
        before = weight(values)
        change(values)
    assert_made_again(weight, values, before)


def test_memory_that_is_given_out_again_is_not_taken_for_the_same(weight, values):
    with torch.no_grad():
        for i in range(20):  # the allocator hands the same address out again as soon as it is free
            values.data = torch.full((12, 10), float(i))
            assert torch.equal(weight(values), fresh(weight, values))
            values.data = torch.empty(0)
            values.data = torch.full((12, 10), float(-i))
            assert torch.equal(weight(values), fresh(weight, values))


def test_other_control_values_are_noticed(weight, values):
    other = nn.Parameter(values.detach() + 1)
    with torch.no_grad():
        before = weight(values)
        assert torch.equal(weight(other), fresh(weight, other))
        assert torch.equal(weight(values), before)


def test_a_sample_that_was_written_to_is_made_again(weight, values):
    with torch.no_grad():
        before = weight(values)
        before.zero_()
    assert_made_again(weight, values, before)
    with torch.no_grad():
        before = weight(values)
    before.requires_grad_()
    assert_made_again(weight, values, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.resize([8, 5]),
        lambda weight: weight.partitions[0].resize(9),
        lambda weight: setattr(weight, "sampling", Sampling(a=-0.75)),
        lambda weight: setattr(weight, "sampling", Sampling(rule=Trapezoidal(), antialias=False)),
        lambda weight: weight.refresh(),
        lambda weight: weight.eval(),
        lambda weight: weight.double(),
    ],
)
def test_a_change_of_the_sizes_settings_or_mode_is_noticed(weight, values, change):
    with torch.no_grad():
        before = weight(values)
        change(weight)
    assert_made_again(weight, values, before)


def test_the_mode_that_it_has_already_changes_nothing(weight, values):
    with torch.no_grad():
        before = weight(values)
        assert weight.train()(values) is before


def test_trainable_partitions_are_followed():
    partition = TrainablePartition(8, kind="centered", nodes=12)
    weight = ContinuousWeight((12, 10), partitions=[partition, None])
    values = torch.randn(12, 10)
    with torch.no_grad():
        before = weight(values)
        assert weight(values) is before
        partition.logits[2] = 1
        assert_made_again(weight, values, before)
        before = weight(values)
        partition.resize(6)
        assert weight(values).shape == (6, 10)
    assert_made_again(weight, values, before)
    assert weight(values).requires_grad  # the points need a gradient, though the values need none


def test_layers_follow_changes_and_their_biases_do():
    layer = IntegralConv2d(4, 8, 3).eval()
    layer.resize(6, 3)
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        assert torch.equal(layer(x), layer.discretize()(x))
        layer.bias.add_(1)
        assert torch.equal(layer(x), layer.discretize()(x))
        layer.continuous_weight.partitions[1].resize(2)
        assert layer(x[:, :2]).shape == (1, 6, 3, 3)


def test_parametrized_modules_profit_too(values):
    linear = nn.Linear(10, 12)
    parametrize.register_parametrization(linear, "weight", ContinuousWeight((12, 10)))
    with torch.no_grad():
        assert linear.weight is linear.weight
        linear.weight = torch.ones(12, 10)
        assert torch.equal(linear.weight, torch.ones(12, 10))


# ------------------------------------------------------------------------------------------------ what is never kept


def test_nothing_is_kept_of_shared_memory(weight, values):
    values.data.share_memory_()  # where another process may write, which counts no version here
    with torch.no_grad():
        assert weight(values) is not weight(values)


def test_nothing_is_kept_of_tensors_without_a_version(weight):
    with torch.inference_mode():
        values = torch.ones(12, 10)
        assert weight(values) is not weight(values)


def test_fake_tensors_are_not_kept_for_real_ones(weight, values):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        weight(values)
    with torch.no_grad():
        assert torch.equal(weight(values), fresh(weight, values))


def test_meta_tensors_are_not_kept(weight, values):
    meta = values.to("meta")
    with torch.no_grad():
        assert weight(meta).shape == weight(meta).shape == (8, 6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_layer_samples_what_is_there_now():
    layer, x = IntegralLinear(8, 6).eval(), torch.randn(3, 8)
    with torch.no_grad():
        layer(x)
        traced = torch.jit.trace(layer, x)
        layer.weight.add_(1)
        assert torch.equal(traced(x), layer(x))


def test_function_transforms_have_samples_of_their_own():
    layer = IntegralLinear(8, 6).eval()
    x = torch.randn(3, 8)
    with torch.no_grad():
        expected = layer(x)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    stacked = {name: torch.stack([value, 2 * value]) for name, value in parameters.items()}
    both = torch.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
    assert torch.allclose(both, torch.stack([expected, 2 * expected]), atol=1e-6)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_carry_no_sample(weight, values, clone):
    plain = len(pickle.dumps(weight))
    with torch.no_grad():
        before = weight(values)
    other = clone(weight)
    assert len(pickle.dumps(weight)) == plain
    with torch.no_grad():
        assert other(values) is not before
        assert weight(values) is before


def test_compiled_and_exported_models_sample_what_is_there_now():
    _, x, integral = converted(models.MLP)
    integral.resize(0.5)
    compiled = torch.compile(integral, fullgraph=True, backend="eager")
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(compiled(x), integral(x), atol=1e-6)
            for parameter in integral.parameters():
                parameter.mul_(0.9)
        integral(x)
        exported = torch.export.export(integral, (x,)).module()
        assert torch.allclose(exported(x), integral(x), atol=1e-6)


# ------------------------------------------------------------------------------------------------------ whole models


def test_a_model_keeps_everything_and_notices_everything():
    """Training, moving averages, loading, casting: in evaluation the network is always its discretisation."""
    _, x, integral = converted(models.ResidualNet, fuse_bn=False)
    average = torch.optim.swa_utils.AveragedModel(integral)
    weights = [module for module in integral.modules() if isinstance(module, ContinuousWeight)]
    state = copy.deepcopy(integral.state_dict())
    optimizer = torch.optim.Adam(integral.parameters(), 1e-2, fused=True)

    def check(dtype: torch.dtype = torch.float32) -> None:
        for network in (integral, average.module):
            with torch.no_grad():
                assert torch.equal(network(x.to(dtype)), network.discretize()(x.to(dtype)))

    check()
    for size in (1.0, 0.5):
        integral.resize(size)
        average.module.resize(size)
        integral.train()(x).square().sum().backward()
        integral.eval()
        check()
        optimizer.step()
        check()
        average.update_parameters(integral)
        check()
    with torch.no_grad():
        integral(x)
        kept = [weight._kept._entry for weight in weights]
        assert None not in kept
        integral(x)
        assert [weight._kept._entry for weight in weights] == kept
    integral.load_state_dict(state)
    check()
    integral.double()
    average.double()
    check(torch.float64)


def test_threads_may_share_a_model():
    _, x, integral = converted(models.PlainCNN)
    integral.resize(0.5)
    with torch.no_grad():
        expected = integral(x)
    wrong = []

    def run() -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.equal(integral(x), expected):
                    wrong.append(True)
                for module in integral.modules():
                    if isinstance(module, ContinuousWeight):
                        module._kept.drop()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
