"""Tuning of partitions at fixed sizes."""

import copy
import inspect
import io
import pickle

import models
import pytest
import torch
import torch.nn.functional as F
from models import converted, example, seeded
from torch import nn

from integralrob.conversion import IntegralModel, convert
from integralrob.nn import ContinuousWeight
from integralrob.nn.sampled import make_sampled
from integralrob.partition import Concatenation, TrainablePartition, UniformPartition


def task(
    network: type[nn.Module], **arguments: object
) -> tuple[IntegralModel, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A network at half its size, and batches with the outputs of the whole one."""
    model, _, integral = converted(network, **arguments)
    integral.resize(0.5)
    inputs = [example(network, seed) for seed in range(3)]
    with torch.no_grad():
        return integral, [(x, model(x)) for x in inputs]


def tune(integral, batches, **arguments):
    options = {"iterations": 12, "learning_rate": 0.03, "progress": False}
    return integral.tune_partition(batches, F.mse_loss, **{**options, **arguments})


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def partitions_of(integral: IntegralModel) -> set[int]:
    found = set()
    for module in integral.modules():
        if isinstance(module, (ContinuousWeight, Concatenation)):
            found |= {id(p) for p in module.partitions if not isinstance(p, Concatenation)}
    return found


@pytest.mark.parametrize("network", [models.MLP, models.PlainCNN, models.ResidualNet, models.Concatenated])
def test_the_points_move_and_the_loss_falls(network):
    integral, batches = task(network)
    before, sizes = snapshot(integral), integral.sizes
    losses = tune(integral, batches[:1])
    assert losses.shape == (12,)
    assert not losses.requires_grad
    assert losses[-1] < losses[0]
    assert integral.sizes == sizes
    after = snapshot(integral)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(name.endswith("logits") for name in set(after) - set(before))
    # All members of a group have its partition, and no other one is left.
    assert partitions_of(integral) == {id(group.partition) for group in integral.groups.values()}
    for group in integral.groups.values():
        assert isinstance(group.partition, TrainablePartition)
        assert group.partition.logits.any() == (group.size > 2)  # the two ends stay
        assert (group.partition().diff() > 0).all()
    with torch.no_grad():
        out = integral(batches[0][0])
        assert torch.equal(out, integral.discretize()(batches[0][0]))
        assert F.mse_loss(out, batches[0][1]) < losses[0]


def test_biases_and_norms_are_trained_if_asked():
    for biases, norms in ((True, False), (False, True), (True, True)):
        integral, batches = task(models.PlainCNN, fuse_bn=False)
        integral.module.fc1.bias.requires_grad_(False)
        before = snapshot(integral)
        tune(integral, batches, biases=biases, norms=norms, iterations=2)
        after = snapshot(integral)
        changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
        of_layers = {f"module.{layer}.bias" for layer in ("conv1", "fc1", "fc2")}
        of_norms = {f"module.bn{i}.{name}" for i in (1, 2) for name in ("weight", "bias")}
        assert changed == (of_layers if biases else set()) | (of_norms if norms else set())
        assert not integral.module.fc1.bias.requires_grad


def test_flags_and_gradients_are_as_they_were():
    integral, batches = task(models.ResidualNet, fuse_bn=False)
    integral.train()
    integral.module.blocks[0].eval()
    integral.module.head.weight.requires_grad_(False)
    integral.module.head.bias.grad = torch.ones(10)
    training = {name: module.training for name, module in integral.named_modules()}
    frozen = {name for name, p in integral.named_parameters() if not p.requires_grad}
    count = len(list(integral.modules()))
    with torch.inference_mode():
        tune(integral, batches, biases=True, iterations=2)
    assert len(list(integral.modules())) == count
    assert {name: module.training for name, module in integral.named_modules()} == training
    logits = {name for name, _ in integral.named_parameters() if name.endswith("logits")}
    assert {name for name, p in integral.named_parameters() if not p.requires_grad} == frozen | logits
    assert {name for name, p in integral.named_parameters() if p.grad is not None} == {"module.head.bias"}
    assert torch.equal(integral.module.head.bias.grad, torch.ones(10))
    assert not any(tensor.is_inference() for tensor in snapshot(integral).values())


def test_the_learning_rate_falls_in_steps(monkeypatch):
    rates = []

    class Spy(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    integral, batches = task(models.MLP)
    tune(integral, batches, iterations=7, learning_rate=1.0, decay=0.5, decay_every=3)
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_the_defaults_are_those_of_the_supplement():
    parameters = inspect.signature(IntegralModel.tune_partition).parameters
    defaults = [parameters[name].default for name in ("iterations", "learning_rate", "decay", "decay_every")]
    assert defaults == [1000, 1e-4, 0.33, 300]
    assert not parameters["biases"].default
    assert not parameters["norms"].default


def test_what_was_tuned_is_tuned_on_and_can_be_resized():
    integral, batches = task(models.MLP)
    first = tune(integral, batches[:1])
    again = tune(integral, batches[:1], iterations=1)
    assert again[0] < first[-1]
    optimizer = torch.optim.SGD(integral.parameters(), 0.1)
    points = integral.groups["0"].partition()
    integral.resize(1.0)
    integral(batches[0][0]).sum().backward()
    optimizer.step()
    integral.resize(0.5)
    assert not torch.allclose(points, UniformPartition.like(integral.groups["0"].partition)(), atol=1e-3)
    torch.testing.assert_close(integral.groups["0"].partition(), points, atol=0.02, rtol=0)
    integral.random_sizes(0.25, 1.0)
    assert torch.equal(integral(batches[0][0]), integral.discretize()(batches[0][0]))


@pytest.mark.parametrize("network", [models.MLP, models.Concatenated, models.PreActivation])
def test_round_trips(network):
    integral, batches = task(network)
    tune(integral, batches, iterations=3)
    x = batches[0][0]
    expected = integral(x)
    assert torch.equal(copy.deepcopy(integral)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(integral))(x), expected)
    other = copy.deepcopy(integral)
    tune(other, batches, iterations=3)
    assert torch.equal(integral(x), expected)
    buffer = io.BytesIO()
    torch.save(integral.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    fresh = convert(seeded(network, 3), x, progress=False)
    uniform = copy.deepcopy(fresh.state_dict())
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), expected)
    assert all(p.requires_grad == (not name.endswith("logits")) for name, p in fresh.named_parameters())
    fresh.load_state_dict(uniform)  # and back
    assert all(type(group.partition) is UniformPartition for group in fresh.groups.values())
    assert torch.equal(fresh(x), convert(seeded(network, 3), x, progress=False)(x))


def test_a_loader_is_gone_through_again_and_its_batches_are_moved(capsys):
    integral, batches = task(models.MLP)
    given = []

    class Loader:
        def __iter__(self):
            given.append(0)
            for x, y in batches:
                given[-1] += 1
                yield {"input": x}, y

    tune(integral, Loader(), iterations=7, progress=True)
    assert given == [3, 3, 1]
    assert "tuning partitions" in capsys.readouterr().err


@pytest.mark.parametrize("biases", [False, True])
def test_a_failure_puts_everything_back(biases):
    integral, batches = task(models.ResidualNet)
    integral.train()
    tune(integral, batches, iterations=2)
    before, groups = snapshot(integral), {name: group.partition for name, group in integral.groups.items()}
    calls = []

    def fail(out, y):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return F.mse_loss(out, y)

    with pytest.raises(KeyboardInterrupt):
        integral.tune_partition(batches, fail, biases=biases, progress=False)
    with pytest.raises(ValueError, match=r"^batches: expected an iterable .* that ended after 3"):
        tune(integral, iter(batches), biases=biases)
    after = snapshot(integral)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: group.partition for name, group in integral.groups.items()} == groups
    assert partitions_of(integral) == {id(partition) for partition in groups.values()}
    assert integral.training
    assert all(p.grad is None for p in integral.parameters())


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "batches", {"batches": 3}),
        (TypeError, "batches", {"batches": [torch.zeros(2, 12)]}),
        (ValueError, "batches", {"batches": []}),
        (TypeError, "loss", {"loss": "mse"}),
        (ValueError, "loss", {"loss": lambda out, y: 0.5}),
        (ValueError, "loss", {"loss": lambda out, y: (out - y).square()}),
        (ValueError, "loss", {"loss": lambda out, y: (out - y).sum() * torch.nan}),
        (ValueError, "iterations", {"iterations": 0}),
        (ValueError, "learning_rate", {"learning_rate": 0}),
        (ValueError, "learning_rate", {"learning_rate": float("inf")}),
        (ValueError, "decay", {"decay": -1.0}),
        (ValueError, "decay_every", {"decay_every": 0}),
        (TypeError, "biases", {"biases": 1}),
        (TypeError, "norms", {"norms": None}),
        (TypeError, "progress", {"progress": "no"}),
    ],
)
def test_bad_arguments(error, name, arguments):
    integral, batches = task(models.MLP)
    given = {"batches": batches, "loss": F.mse_loss, "progress": False, **arguments}
    with pytest.raises(error, match=rf"^{name}: expected"):
        integral.tune_partition(given.pop("batches"), given.pop("loss"), **given)
    assert all(type(group.partition) is UniformPartition for group in integral.groups.values())
    assert not [name for name, _ in integral.named_parameters() if "logits" in name]


def test_without_groups_there_is_nothing_to_tune():
    _, x, integral = converted(models.MLP, dims=[])
    with pytest.raises(ValueError, match=r"^tune_partition: expected a model with groups"):
        integral.tune_partition([(x, x)], F.mse_loss)


def test_a_partition_in_the_place_of_another():
    _, x, integral = converted(models.Concatenated)
    expected = integral(x)
    name = "stem"
    before = integral.groups[name].partition
    for error, argument, given in (
        (ValueError, "name", ("nothing", before)),
        (ValueError, "partition", (name, UniformPartition(8))),
        (ValueError, "partition", (name, None)),
    ):
        with pytest.raises(error, match=rf"^{argument}: expected"):
            integral.set_partition(*given)
    integral.set_partition(name, TrainablePartition.like(before))
    assert id(before) not in partitions_of(integral)
    torch.testing.assert_close(integral(x), expected)
    integral(x).sum().backward()
    assert integral.groups[name].partition.logits.grad.any()


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(12), nn.InstanceNorm2d(12, affine=True, track_running_stats=True)])
def test_gradients_reach_the_points_through_running_statistics(layer):
    """The norm's own formula, written out with the samples of its statistics."""
    for tensor in (layer.running_mean, layer.weight, layer.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    partition = TrainablePartition(12, kind="centered", nodes=12)
    tensors = {
        name: ContinuousWeight((12,), (0,), input_dim=None, partitions=[partition])
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    make_sampled(layer, tensors, {"0": partition}, {"num_features": ("0", 1)})
    layer.eval()
    partition.resize(7)
    layer.integral_refresh()
    x, target = torch.randn(2, 3, 7, 4, 4)
    values = {**layer._parameters, **layer._buffers}
    w, b, mean = (tensors[name](values[name]).view(7, 1, 1) for name in ("weight", "bias", "running_mean"))
    deviation = tensors["running_var"](values["running_var"].sqrt()).view(7, 1, 1)
    expected = (x - mean) / (deviation**2 + layer.eps).sqrt() * w + b
    torch.testing.assert_close(layer(x), expected)
    losses = [F.mse_loss(out, target) for out in (layer(x), expected)]
    torch.testing.assert_close(*(torch.autograd.grad(loss, partition.logits)[0] for loss in losses))
    torch.testing.assert_close(layer(x), layer.requires_grad_(False)(x))
    if isinstance(layer, nn.InstanceNorm2d):
        partition.requires_grad_(True)
        torch.testing.assert_close(layer(x[0]), expected[0])
    partition.requires_grad_(True)
    layer.train()(x).sum().backward()  # in training the statistics are the batch's, and follow
