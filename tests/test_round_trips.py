"""An integral model's state, copies, averages and optimizers, whatever its sizes, orders and partitions."""

import copy
import functools
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from models import PlainCNN, converted
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import integralrob
from integralrob.conversion import IntegralModel
from integralrob.nn.sampled import SampledModule
from integralrob.partition import TrainablePartition, UniformPartition

pytest.importorskip("torch_pruning")

# Layers and norms fused and kept, concatenations, embeddings, parameters outside of layers, gated units and PReLU.
NETWORKS = [PlainCNN, networks.DenseNet40, networks.ViT, networks.BERT, networks.GatedConv]


@functools.cache
def _converted(network: type[nn.Module], order: Any) -> tuple[nn.Module, torch.Tensor, IntegralModel]:
    return converted(network, fuse_bn=False, order=order)


def fresh(network: type[nn.Module]) -> IntegralModel:
    """The converted network, with norms kept, at full size and in the given order; for each test anew."""
    return copy.deepcopy(_converted(network, None)[2])


def prepared(network: type[nn.Module]) -> tuple[torch.Tensor, IntegralModel]:
    """The example, and the converted network in another order, at uneven sizes."""
    _, x, integral = copy.deepcopy(_converted(network, backwards))
    integral.resize(
        {name: max(2, group.full_size - 1 - i % 3) for i, (name, group) in enumerate(integral.groups.items())}
    )
    return x, integral


def backwards(distance: np.ndarray) -> np.ndarray:
    return np.arange(len(distance))[::-1]


def with_trainable_partitions(integral: IntegralModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in list(integral.groups)[::2]:
        partition = TrainablePartition.like(integral.groups[name].partition).requires_grad_(False)
        nn.init.normal_(partition.logits, generator=generator)
        integral.set_partition(name, partition)


def through_a_file(state: object) -> object:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def everything(model: nn.Module) -> list[object]:
    """All that a load could change: state, and which tensors there are."""
    state = {
        key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in model.state_dict().items()
    }
    return [state, [id(tensor) for tensor in (*model.parameters(), *model.buffers())], model.training]


def same(a: list[object], b: list[object]) -> bool:
    states = a[0].keys() == b[0].keys() and all(
        torch.equal(value, b[0][key]) if isinstance(value, torch.Tensor) else value == b[0][key]
        for key, value in a[0].items()
    )
    return states and a[1:] == b[1:]


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("trainable", [False, True])
def test_a_state_has_sizes_orders_and_partitions(network, trainable):
    x, integral = prepared(network)
    if trainable:
        with_trainable_partitions(integral)
    expected = integral.eval()(x)
    other = fresh(network)
    optimised = list(other.parameters())
    assert other.load_state_dict(through_a_file(integral.state_dict())) == ([], [])
    assert other.sizes == integral.sizes
    for name, group in integral.groups.items():
        assert other.groups[name].order == group.order
        assert type(other.groups[name].partition) is type(group.partition)
        assert torch.equal(other.groups[name].partition(), group.partition())
    assert torch.equal(other.eval()(x), expected)
    assert {id(p) for p in optimised} <= {id(p) for p in other.parameters()}
    integral.resize(0.5)
    other.resize(0.5)
    assert torch.equal(other(x), integral(x))


def test_trainable_partitions_become_uniform_again():
    x, uniform = prepared(networks.DenseNet40)
    expected, integral = uniform.eval()(x), copy.deepcopy(uniform)
    with_trainable_partitions(integral)
    assert not torch.equal(integral(x), expected)
    integral.load_state_dict(uniform.state_dict())
    assert all(type(group.partition) is UniformPartition for group in integral.groups.values())
    assert torch.equal(integral(x), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_no_tensor_is_plain(network):
    _, integral = prepared(network)
    with_trainable_partitions(integral)
    others = {key: value for key, value in integral.state_dict().items() if not isinstance(value, torch.Tensor)}
    assert list(others) == ["_extra_state", "size_draws._extra_state"]
    assert json.loads(json.dumps(others)) == others
    assert type(integral.groups) is dict


def test_assign_takes_the_tensors_themselves():
    x, integral = prepared(networks.DenseNet40)
    state = through_a_file(integral.state_dict())
    other = fresh(networks.DenseNet40)
    other.load_state_dict(state, assign=True)
    assert dict(other.named_parameters())["module.1.norm.weight"].data_ptr() == state["module.1.norm.weight"].data_ptr()
    assert torch.equal(other.eval()(x), integral.eval()(x))


# A layer, a norm that is sampled, an embedding, a parameter outside of layers: the key, and the groups it belongs to.
MEMBERS = [
    (PlainCNN, "module.conv2.weight", "'conv1', 'conv2'"),
    (networks.DenseNet40, "module.1.norm.running_var", "'0'"),
    (networks.DenseNet40, "module.8.norm.weight", "'5', '7.conv'"),
    (networks.BERT, "module.places.weight", "'words'"),
    (networks.ViT, "module.positions", "'patches'"),
]


@pytest.mark.parametrize(("network", "key", "groups"), MEMBERS)
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_a_load_that_fails_names_the_groups_and_changes_nothing(network, key, groups, damage):
    x, integral = prepared(network)
    state = copy.deepcopy(fresh(network).state_dict())
    if damage == "missing":
        del state[key]
    elif damage == "unexpected":
        key += ".more" if key.endswith("positions") else "_more"
        state[key] = torch.zeros(3)
    else:
        state[key] = torch.zeros(3)
    before, outputs = everything(integral), integral.eval()(x)
    with pytest.raises(RuntimeError) as caught:
        integral.eval().load_state_dict(state)
    assert key in str(caught.value)
    assert str(caught.value).endswith(f"These are of the groups: {groups}.")
    before[2] = False
    assert same(everything(integral), before)
    assert torch.equal(integral(x), outputs)
    if damage == "shape":
        with pytest.raises(RuntimeError, match=key):
            integral.load_state_dict(state, strict=False)
    else:
        missing, unexpected = integral.load_state_dict(state, strict=False)
        assert missing + unexpected == [key]


@pytest.mark.parametrize("other", [networks.DenseNet40, networks.ViT, PlainCNN])
def test_the_state_of_another_network_is_refused(other):
    _, integral = prepared(networks.ResNet50)
    state, before = prepared(other)[1].state_dict(), everything(integral)
    with pytest.raises(ValueError, match=r"^state_dict: expected the groups of this model; not in both: .*4\.body\.0"):
        integral.load_state_dict(state)
    assert same(everything(integral), before)


def test_the_state_of_wider_layers_is_refused_with_the_group():
    class Wide(PlainCNN):
        def __init__(self):
            super().__init__()
            self.conv2, self.bn2, self.fc1 = nn.Conv2d(8, 14, 3, padding=1), nn.BatchNorm2d(14), nn.Linear(14 * 9, 20)

    integral = prepared(PlainCNN)[1]
    before = everything(integral)
    with pytest.raises(
        ValueError, match=r"^state_dict: the group 'conv2': order: expected a permutation of range\(12\)"
    ):
        integral.load_state_dict(prepared(Wide)[1].state_dict())
    assert same(everything(integral), before)


def test_the_state_of_the_discrete_network_is_refused():
    model, _, integral = converted(PlainCNN)
    before = everything(integral)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*"_extra_state"'):
        integral.load_state_dict(model.state_dict())
    assert same(everything(integral), before)


def test_without_sizes_and_orders_those_of_the_model_stay():
    x, integral = prepared(PlainCNN)
    state = {key: value for key, value in integral.state_dict().items() if key != "_extra_state"}
    other = fresh(PlainCNN)
    before = other.get_extra_state()
    with pytest.raises(RuntimeError, match="_extra_state"):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False) == (["_extra_state"], [])
    assert other.get_extra_state() == before
    other.resize(integral.sizes)
    assert torch.equal(other.eval()(x), integral.eval()(x))


def test_as_a_part_of_another_module():
    x, integral = prepared(networks.DenseNet40)
    with_trainable_partitions(integral)
    whole = nn.Sequential(nn.Identity(), integral).eval()
    other = nn.Sequential(nn.Identity(), fresh(networks.DenseNet40)).eval()
    other.load_state_dict(through_a_file(whole.state_dict()))
    assert torch.equal(other(x), whole(x))
    state, before = whole.state_dict(), everything(other)
    state["1._extra_state"]["5"]["size"] = 1
    with pytest.raises(ValueError, match="the group '5': size: expected"):
        other.load_state_dict(state)
    assert same(everything(other), before)


# -------------------------------------------------------------------------------------------------------------- copies

LOADED = """
import sys
import torch
integral, x, expected = torch.load(sys.argv[1], weights_only=False)
torch.testing.assert_close(integral(x), expected)
integral.resize(1.0)
full = integral(x)
integral.resize(0.5)
assert not torch.equal(integral(x), full)
print(integral.sizes)
"""


def test_a_whole_model_loads_in_another_process(tmp_path):
    """Classes of sampled modules are made at run time: another process has to make them too."""
    x, integral = prepared(networks.DenseNet40)
    with_trainable_partitions(integral)
    assert sum(isinstance(module, SampledModule) for module in integral.modules()) == 6
    torch.save((integral, x, integral.eval()(x)), tmp_path / "model.pt")
    paths = [str(Path(integralrob.__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{LOADED}", str(tmp_path / "model.pt")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    integral.resize(0.5)
    assert done.stdout.strip() == str(integral.sizes)


# ------------------------------------------------------------------------------------------------------------ averages


@pytest.mark.parametrize("use_buffers", [False, True])
def test_moving_averages(use_buffers):
    x, integral = prepared(networks.DenseNet40)
    integral.train()
    average = AveragedModel(integral, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=use_buffers)
    optimizer = torch.optim.SGD(integral.parameters(), 1e-2)
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        optimizer.zero_grad()
        integral.random_sizes(0.5, 1.0)
        integral(x).square().sum().backward()
        optimizer.step()
        average.update_parameters(integral)
        for name, value in integral.module.state_dict().items():
            averaged = step > 0 and (use_buffers or "running" not in name) and value.is_floating_point()
            expected[name] = torch.lerp(expected[name], value, 0.25) if averaged else value.clone()
    for name, value in average.module.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    average.module.resize(integral.sizes)  # its sizes are its own
    assert not torch.equal(average.eval()(x), integral.eval()(x))
    assert torch.equal(average.module.discretize()(x), average(x))
    other = AveragedModel(fresh(networks.DenseNet40), use_buffers=use_buffers)
    other.load_state_dict(through_a_file(average.state_dict()))
    assert torch.equal(other.eval()(x), average(x))


# ---------------------------------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 1e-2, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, 1e-2),
    ],
)
def test_an_optimizer_made_before_goes_on_after_resizes_and_loads(make):
    x, integral = prepared(networks.DenseNet40)
    integral.train()
    optimizer, parameters = make(integral.parameters()), list(integral.parameters())

    def train(model, optimizer, sizes):
        for size in sizes:
            model.resize(size)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    train(integral, optimizer, (1.0, 0.5, 0.75))
    saved = through_a_file({"model": integral.state_dict(), "optimizer": optimizer.state_dict()})
    assert all(a is b for a, b in zip(parameters, integral.parameters(), strict=True))
    for parameter in parameters:
        for value in optimizer.state[parameter].values():
            assert value is None or value.dim() == 0 or value.shape == parameter.shape

    resumed = fresh(networks.DenseNet40).train()
    again = make(resumed.parameters())
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(copy.deepcopy(saved["optimizer"]))  # which it would go on in
    assert resumed.sizes == integral.sizes
    train(integral, optimizer, (0.6, 1.0))
    train(resumed, again, (0.6, 1.0))
    for name, value in integral.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name

    integral.load_state_dict(saved["model"])  # back to then, under the optimizer's hands
    optimizer.load_state_dict(saved["optimizer"])
    assert all(a is b for a, b in zip(parameters, integral.parameters(), strict=True))
    train(integral, optimizer, (0.6, 1.0))
    for name, value in resumed.module.state_dict().items():
        assert torch.equal(integral.module.state_dict()[name], value), name
