"""Training over many sizes: the sandwich rule, soft targets, recalibrated batch norms."""

import copy
import functools
import io
import pickle

import models
import pytest
import torch
import torch.nn.functional as F
from models import converted, seeded
from torch import nn

from integralrob.conversion import IntegralModel, convert
from integralrob.training import recalibrate_batch_norms_, sandwich_step, soft_cross_entropy


def digits(count: int = 32, features: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, features, generator=torch.Generator().manual_seed(0))
    return x, x[:, :classes].argmax(1)


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------ sandwich rule


@pytest.mark.parametrize("distil", [None, soft_cross_entropy])
def test_the_gradients_are_those_of_all_sizes_together(distil):
    _, _, integral = converted(models.MLP)
    x, y = digits()
    integral.resize({"0": 20})
    generator = torch.Generator().manual_seed(5)
    losses = sandwich_step(
        integral, x, y, F.cross_entropy, distil=distil, smallest=0.5, multiple_of=4, generator=generator
    )
    assert integral.sizes == {"0": 20, "2": 16}
    assert not any(loss.requires_grad for loss in losses)
    actual = gradients(integral)

    integral.zero_grad()
    generator.manual_seed(5)
    integral.resize(1.0)
    full = integral(x)
    expected = [F.cross_entropy(full, y)]
    for resize in (lambda: integral.resize(0.5), *[lambda: integral.random_sizes(0.5, 1, 4, generator=generator)] * 2):
        resize()
        out = integral(x)
        expected.append(F.cross_entropy(out, y if distil is None else full.detach().softmax(1)))
    sum(expected).backward()
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected).detach())
    for name, gradient in gradients(integral).items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_sizes_of_a_step():
    _, x, integral = converted(models.MLP)
    sizes = []
    integral.module.register_forward_hook(lambda *_: sizes.append(integral.sizes))
    _, y = digits(5)
    for num_random in (0, 3):
        sizes.clear()
        losses = sandwich_step(
            integral, x, y, F.cross_entropy, distil=None, smallest=0.3, largest=0.8, num_random=num_random
        )
        assert len(losses) == len(sizes) == 2 + num_random
        assert sizes[:2] == [{"0": 16, "2": 16}, {"0": 8, "2": 8}]
        assert all(drawn["0"] in (8, 16) and drawn["2"] == 8 for drawn in sizes[2:])


def test_gradients_accumulate_and_can_be_scaled():
    _, x, integral = converted(models.MLP)
    _, y = digits(5)
    step = functools.partial(sandwich_step, integral, x, y, F.cross_entropy, distil=None, num_random=0)
    step()
    once = gradients(integral)
    step(backward=lambda loss: (2 * loss).backward())
    for name, gradient in gradients(integral).items():
        torch.testing.assert_close(gradient, 3 * once[name])


def test_regression_learns_from_the_largest_output():
    _, x, integral = converted(models.SRCNN)
    losses = sandwich_step(integral, x, x + 1, F.mse_loss, distil=F.l1_loss, smallest=0.5, multiple_of=1, num_random=0)
    full = integral(x).detach()
    integral.resize(0.5)
    torch.testing.assert_close(losses[0], F.mse_loss(full, x + 1))
    torch.testing.assert_close(losses[1], F.l1_loss(integral(x), full).detach())


def test_outputs_and_inputs_can_be_structures():
    class Both(models.MLP):
        def forward(self, x, scale):
            return {"out": super().forward(x) * scale}

    x, y = digits()
    integral = convert(seeded(Both), {"x": x, "scale": torch.ones(())}, progress=False)

    def loss(outputs, targets):
        return F.cross_entropy(outputs["out"], targets)

    def distil(outputs, teacher):
        assert not teacher["out"].requires_grad
        return soft_cross_entropy(outputs["out"], teacher["out"])

    for inputs in ({"x": x, "scale": torch.ones(())}, (x, torch.ones(()))):
        assert len(sandwich_step(integral, inputs, y, loss, distil=distil)) == 4


def test_runs_under_autocast_in_evaluation_mode_and_without_groups():
    x, y = digits(5)
    for dims in (None, []):
        _, _, integral = converted(models.MLP, dims=dims)
        integral.eval()
        with torch.autocast("cpu", torch.bfloat16):
            losses = sandwich_step(integral, x, y, F.cross_entropy, distil=soft_cross_entropy)
        assert torch.stack(losses).isfinite().all()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in integral.parameters())
        assert not integral.training


def test_a_failure_leaves_the_sizes_as_they_were():
    _, x, integral = converted(models.MLP)
    integral.resize(0.75)
    sizes = integral.sizes

    def fail(*_):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        sandwich_step(integral, x, digits(5)[1], F.cross_entropy, distil=fail)
    assert integral.sizes == sizes


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "model", {"model": nn.Linear(12, 4)}),
        (TypeError, "model", {"model": None}),
        (TypeError, "loss", {"loss": "ce"}),
        (TypeError, "distil", {"distil": True}),
        (TypeError, "backward", {"backward": None}),
        (TypeError, "smallest", {"smallest": None}),
        (ValueError, "smallest, largest", {"smallest": 0.0}),
        (ValueError, "smallest, largest", {"largest": 1.5}),
        (ValueError, "smallest, largest", {"smallest": 0.9, "largest": 0.5}),
        (ValueError, "num_random", {"num_random": -1}),
        (ValueError, "multiple_of", {"multiple_of": 0}),
        (TypeError, "generator", {"generator": 3}),
    ],
)
def test_bad_arguments_of_a_step(error, name, arguments):
    _, x, integral = converted(models.MLP)
    given = {"model": integral, "inputs": x, "targets": digits(5)[1], "loss": F.cross_entropy, "distil": None}
    with pytest.raises(error, match=rf"^{name}: expected"):
        sandwich_step(**{**given, **arguments})
    assert all(p.grad is None for p in integral.parameters())
    assert integral.size_draws.count == 0


def test_the_sandwich_lowers_the_loss_at_all_sizes():
    x, y = digits(256)
    integral = convert(seeded(models.MLP), x[:2], progress=False)
    optimizer = torch.optim.Adam(integral.parameters(), 1e-2)

    @torch.no_grad()
    def losses():
        result = []
        for size in (1.0, 0.75, 0.5):
            integral.resize(size)
            result.append(float(F.cross_entropy(integral(x), y)))
        integral.resize(1.0)
        return result

    before = losses()
    for _ in range(40):
        optimizer.zero_grad()
        sandwich_step(integral, x, y, F.cross_entropy, distil=soft_cross_entropy, smallest=0.5)
        optimizer.step()
    assert all(after < 0.5 * loss for after, loss in zip(losses(), before, strict=True))


# ------------------------------------------------------------------------------------------------------- soft targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 5, 4)])
def test_soft_cross_entropy_is_the_divergence_up_to_the_teachers_entropy(shape, temperature):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    dim = min(1, len(shape) - 1)
    p = (teacher / temperature).softmax(dim)
    log_q = (logits / temperature).log_softmax(dim)
    positions = logits.numel() // 5
    expected = temperature**2 * (p * -log_q).sum() / positions
    actual = soft_cross_entropy(logits, teacher, temperature=temperature)
    torch.testing.assert_close(actual, expected)
    # Gradients: T · (q - p), of the size of those at T = 1.
    (gradient,) = torch.autograd.grad(actual, logits)
    torch.testing.assert_close(gradient, temperature * (log_q.exp() - p) / positions)


def test_bad_soft_targets():
    z = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"^logits: expected"):
        soft_cross_entropy(None, z)
    with pytest.raises(ValueError, match=r"^teacher: expected the shape"):
        soft_cross_entropy(z, z[:1])
    for temperature in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"^temperature: expected"):
            soft_cross_entropy(z, z, temperature=temperature)


# ------------------------------------------------------------------------------------------------------ recalibration


class Normed(nn.Sequential):
    """A norm on what the input determines alone, one behind it, dropout, and one that nothing can be fused into."""

    example_shape = (6, 5)

    def __init__(self):
        super().__init__(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 12), nn.BatchNorm1d(12),
            nn.ReLU(), nn.Linear(12, 3),
        )  # fmt: skip


def data(count: int = 90) -> torch.Tensor:
    return 1 + 2 * torch.randn(count, 5, generator=torch.Generator().manual_seed(2))


def flags(model: nn.Module) -> list[object]:
    modules = [(module.training, getattr(module, "track_running_stats", None)) for module in model.modules()]
    return [*modules, *(parameter.requires_grad for parameter in model.parameters())]


def test_the_statistics_are_those_of_all_batches_together():
    network = seeded(Normed).train()
    network[1].eval().requires_grad_(False)  # frozen by the user
    before, state = flags(network), copy.deepcopy(network.state_dict())
    x = data()
    batches = x.split([10, 50, 30])
    recalibrate_batch_norms_(network, batches)
    hidden = network[0](x)
    torch.testing.assert_close(network[1].running_mean, hidden.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network[1].running_var, hidden.var(0), rtol=1e-5, atol=1e-6)
    # Behind it, what comes from batches that are normalised with their own statistics, without dropout.
    normal = [F.batch_norm(network[0](b), None, None, network[1].weight, network[1].bias, True) for b in batches]
    second = network[4](torch.cat(normal).relu())
    torch.testing.assert_close(network[5].running_mean, second.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network[5].running_var, second.var(0), rtol=1e-5, atol=1e-6)
    assert flags(network) == before
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {f"{i}.{name}" for i in (1, 5) for name in ("running_mean", "running_var")}
    assert not any(module._forward_pre_hooks for module in network.modules())


def kept_norms() -> IntegralModel:
    return converted(Normed, fuse_bn=False)[2]


@pytest.mark.parametrize("size", [1.0, 0.5, 1.5])
def test_an_integral_network_and_its_discretisation_get_the_same_statistics(size):
    integral = kept_norms()
    integral.resize(size)
    discrete = integral.discretize()
    values = {name: buffer.clone() for name, buffer in integral.named_buffers()}
    batches = [(x, None) for x in data().split(40)]
    recalibrate_batch_norms_(integral, batches)
    recalibrate_batch_norms_(discrete, iter(batches))
    for twin in (integral.module, integral.discretize()):
        for i in (1, 5):
            torch.testing.assert_close(twin[i].running_mean, discrete[i].running_mean)
            torch.testing.assert_close(twin[i].running_var, discrete[i].running_var)
    assert torch.equal(integral(data()), integral.discretize()(data()))
    torch.testing.assert_close(integral(data()), discrete(data()))
    # What all sizes share is as it was.
    assert all(torch.equal(buffer, values[name]) for name, buffer in integral.named_buffers())
    assert b"integral" not in pickle.dumps(integral.discretize())


def test_statistics_of_a_size_are_forgotten_at_others_and_in_training():
    integral = kept_norms()
    x = data()
    full = integral(x)
    integral.resize(0.5)
    half = integral(x)
    recalibrate_batch_norms_(integral, [x])
    calibrated = integral(x)
    assert not torch.allclose(calibrated, half)
    integral.resize(0.5)  # no other size
    assert torch.equal(integral(x), calibrated)
    integral.resize(1.0)
    assert torch.equal(integral(x), full)
    integral.resize(0.5)
    assert torch.equal(integral(x), half)

    recalibrate_batch_norms_(integral, [x])
    integral.resize({"0": 9})  # of another norm's channels: they are upstream
    integral.resize({"0": 8})
    assert torch.equal(integral(x), half)

    recalibrate_batch_norms_(integral, [x])
    momenta = [module.momentum for module in integral.modules() if isinstance(module, nn.BatchNorm1d)]
    assert momenta == [0.1, 0.1]
    for norm in (integral.module[1], integral.module[5]):
        norm.train().momentum = 0.0
    integral(x)
    integral.eval()
    torch.testing.assert_close(integral(x), half)


def test_round_trips_keep_the_statistics_of_a_size():
    integral = kept_norms()
    integral.resize(0.5)
    recalibrate_batch_norms_(integral, [data()])
    expected = integral(data())
    assert torch.equal(copy.deepcopy(integral)(data()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(integral))(data()), expected)
    buffer = io.BytesIO()
    torch.save(integral.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other = kept_norms()
    plain = other.state_dict()
    other.load_state_dict(state)
    assert torch.equal(other(data()), expected)
    other.load_state_dict(plain)  # without any: at full size, where there were none
    assert torch.equal(other(data()), kept_norms()(data()))
    state["module.1.integral_running_var"] = torch.ones(5)
    with pytest.raises(RuntimeError, match=r"module.1.integral_running_var: expected a tensor of shape \(8,\)"):
        other.load_state_dict(state)
    integral.double()
    torch.testing.assert_close(integral(data().double()), expected.double(), rtol=1e-4, atol=1e-5)


def test_recalibration_helps_a_network_that_was_resized():
    x = data(400)
    integral = kept_norms()
    with torch.no_grad():
        for norm in (integral.module[1], integral.module[5]):
            norm._buffers["running_mean"].add_(3)  # out of date
    integral.resize(0.5)
    in_training = integral.discretize().train()
    in_training[3].eval()  # dropout
    target = in_training(x)

    @torch.no_grad()
    def error():
        return float((integral(x) - target).square().mean())

    before = error()
    recalibrate_batch_norms_(integral, x.split(100))
    assert error() < 0.3 * before


def test_batches_of_any_kind_and_half_types():
    network = seeded(Normed).bfloat16()
    x = data()
    recalibrate_batch_norms_(network, [{"x": x.bfloat16()}], forward=lambda batch: network(batch["x"]))
    hidden = network[0](x.bfloat16()).float()
    torch.testing.assert_close(network[1].running_mean.float(), hidden.mean(0), rtol=1e-2, atol=1e-2)
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    batch = torch.randn(5, 3, 6, 6)
    recalibrate_batch_norms_(images, [batch[:2], batch[2:]])
    torch.testing.assert_close(images[1].running_var, images[0](batch).transpose(0, 1).flatten(1).var(1))


def test_norms_without_statistics_and_networks_without_norms_are_left_alone():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False))
    recalibrate_batch_norms_(network, [data()])
    batches = iter([data()])
    recalibrate_batch_norms_(nn.Linear(5, 4), batches)
    assert next(batches) is not None


def test_a_failed_recalibration_changes_nothing():
    network = seeded(Normed)
    state, before = copy.deepcopy(network.state_dict()), flags(network)

    def fail(batch):
        network(batch)
        raise ArithmeticError("nothing works")

    for error, message, batches, forward in (
        (ValueError, "batches: expected at least one batch", [], None),
        (TypeError, "batches: expected an iterable", 3, None),
        (TypeError, "batches: expected tensors", [data(), {"x": data()}], None),
        (TypeError, "batches: expected tensors", [()], None),
        (TypeError, "forward: expected", [data()], 3),
        (RuntimeError, "model: expected batches that reach", [data()], lambda batch: None),
        (ValueError, "Expected more than 1 value per channel", [data(), data(1)], None),
        (ArithmeticError, "nothing works", [data()], fail),
    ):
        with pytest.raises(error, match=message):
            recalibrate_batch_norms_(network, batches, forward=forward)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert flags(network) == before
        assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(TypeError, match=r"^model: expected"):
        recalibrate_batch_norms_(lambda x: x, [data()])
