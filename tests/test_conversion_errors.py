"""What a conversion refuses."""

import models
import pytest
import torch
from models import converted
from torch import nn

from integralrob import quadrature
from integralrob.conversion import convert
from integralrob.nn import Sampling

pytest.importorskip("torch_pruning")


def test_refuses_with_the_first_layer_that_differs(monkeypatch):
    import integralrob.conversion.batchnorm as batchnorm

    fuse = batchnorm.fuse

    def wrong(model, producer, norm):
        fuse(model, producer, norm)
        if producer == "conv2":
            with torch.no_grad():
                model.get_submodule(producer).weight.mul_(1.01)

    monkeypatch.setattr(batchnorm, "fuse", wrong)
    with pytest.raises(RuntimeError, match=r"^model: .* full size, first at the layer 'bn2'"):
        converted(models.PlainCNN)


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "model", {"model": lambda x: x}),
        (ValueError, "order", {"order": "none"}),
        (TypeError, "fuse_bn", {"fuse_bn": 1}),
        (TypeError, "progress", {"progress": None}),
        (TypeError, "dims", {"dims": "conv1"}),
        (TypeError, "dims", {"dims": 3}),
        (ValueError, "dims", {"dims": ["conv1", "conv9"]}),
        (TypeError, "sampling", {"sampling": "centered"}),
    ],
)
def test_bad_arguments(error, name, arguments):
    model, x = models.seeded(models.PlainCNN), models.example(models.PlainCNN)
    with pytest.raises(error, match=rf"^{name}: expected"):
        convert(**{"model": model, "example_inputs": x, "progress": False, **arguments})


def test_a_bad_order_function_is_an_error():
    with pytest.raises(ValueError, match=r"^order\(distance\): expected a permutation of range\(24\)"):
        converted(models.MLP, order=lambda distance: [0] * len(distance))


def test_a_rule_without_inverse_is_an_error():
    with pytest.raises(ValueError, match="the weight 0"):
        converted(models.MLP, sampling=Sampling("endpoints", quadrature.LeftRiemann()))


def test_weights_that_are_not_finite_are_an_error():
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"^model: expected finite weights, got NaN or infinity in '2.weight'"):
        convert(model, x, progress=False)


@pytest.mark.parametrize("x", [torch.zeros(0, 12), torch.full((2, 12), float("nan"))])
def test_an_example_that_shows_nothing_is_an_error(x):
    with pytest.raises(ValueError, match=r"^example_inputs: expected some with finite outputs"):
        convert(models.seeded(models.MLP), x, progress=False)


class Spectrum(nn.Module):
    """Its only output is complex, and has one group of channels that cannot be in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.second(self.first(x))
        return torch.fft.fft(self.head(x * torch.arange(x.shape[1])), dim=0).conj()


def test_complex_outputs_are_compared():
    assert convert(Spectrum(), torch.randn(3, 4), progress=False).sizes == {"first": 8}


def test_inference_tensors_in_a_model_are_an_error():
    with torch.inference_mode():
        model = models.seeded(models.MLP)
    with pytest.raises(ValueError, match=r"^model: .* outside of torch.inference_mode, got '0.weight'"):
        convert(model, models.example(models.MLP), progress=False)


def with_layer(model: nn.Sequential, index: int, layer: nn.Module) -> nn.Module:
    model[index] = layer
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "model: .* values, got '0.weight' on the device meta", lambda m: m.to("meta")),
        (
            ValueError,
            "model: .* values, got '2.weight' on",
            lambda m: with_layer(m, 2, nn.Linear(24, 16, device="meta")),
        ),
        (ValueError, "model: .* run once, got '2.weight' without", lambda m: with_layer(m, 2, nn.LazyLinear(16))),
        (TypeError, "model: the parameter '0.weight': .*float8", lambda m: m.to(torch.float8_e4m3fn)),
        (TypeError, "model: .* the ScriptModule '2'", lambda m: with_layer(m, 2, torch.jit.script(m[2]))),
        (RuntimeError, "example_inputs: the model does not run on them: .*dtype", lambda m: m.double()),
        (
            RuntimeError,
            "example_inputs: the model does not run on them: ",
            lambda m: with_layer(m, 0, nn.Linear(5, 24)),
        ),
    ],
)
def test_models_without_values_or_that_do_not_run_are_refused(error, message, make):
    model, x = make(models.seeded(models.MLP)), models.example(models.MLP)
    with pytest.raises(error, match=f"^{message}"):
        convert(model, x, progress=False)
