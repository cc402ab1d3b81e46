import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from integralrob import quadrature
from integralrob.nn import (
    ContinuousWeight,
    IntegralConv1d,
    IntegralConv2d,
    IntegralConv3d,
    IntegralLinear,
    Sampling,
)
from integralrob.ops import reference
from integralrob.partition import Concatenation, TrainablePartition, UniformPartition

RULES = [
    quadrature.Midpoint(), quadrature.Trapezoidal(), quadrature.Simpson(),
    quadrature.LeftRiemann(), quadrature.RightRiemann(), quadrature.GaussLegendre(),
]  # fmt: skip

# (integral layer, arguments of the twin, shape of an input)
LAYERS = [
    (IntegralLinear, (10, 14), (3, 10)),
    (IntegralConv1d, (6, 8, 3), (2, 6, 9)),
    (IntegralConv2d, (6, 8, (3, 2), 2, 1, 1), (2, 6, 7, 8)),
    (IntegralConv3d, (4, 6, 3), (2, 4, 4, 4, 4)),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


# --------------------------------------------------------------------------------------------------- ContinuousWeight


def test_the_default_is_the_identity_at_full_size():
    values = torch.randn(9, 7, 3, 3)
    weight = ContinuousWeight(values.shape)
    assert torch.equal(weight(values), values)
    assert torch.equal(weight.right_inverse(values), values)
    assert weight.sizes == (9, 7)


def test_samples_as_the_reference_op_does_and_scales_the_input_axis():
    values = torch.randn(12, 10, 3, dtype=torch.float64)
    weight = ContinuousWeight(values.shape, sampling=Sampling(rule=quadrature.Trapezoidal(), a=-0.75))
    weight.resize((7, 5))
    points = tuple(partition() for partition in weight.partitions)
    interval = weight.partitions[1].interval
    rho = quadrature.Trapezoidal().weights(points[1], interval) * 10 / (interval[1] - interval[0])
    expected = reference.sample_weight(values, points, (None, rho), a=-0.75, antialias=True)
    torch.testing.assert_close(weight(values), expected, rtol=1e-13, atol=1e-13)


def test_keeps_sums_over_the_input_axis():
    # A constant integrand: Σ_i w[o, i] · 1 does not depend on the size of the input axis, whatever the rule.
    for rule in RULES[:-1]:
        for kind in ("centered", "endpoints"):
            weight = ContinuousWeight((4, 32), dims=(1,), sampling=Sampling(rule=rule, kind=kind))
            weight.resize([20])
            torch.testing.assert_close(weight(torch.ones(4, 32)).sum(1), torch.full((4,), 32.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    values = torch.randn(8, 6).to(dtype)
    weight = ContinuousWeight(values.shape)
    weight.resize((5, 4))
    assert weight(values).dtype == dtype
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert relative(weight(values).double(), weight(values.double())) < tolerance


def test_half_does_not_touch_the_bands():
    values = torch.randn(8, 6, dtype=torch.float64)
    weight = ContinuousWeight(values.shape)
    weight.resize((5, 4))
    before = weight(values)
    assert torch.equal(weight.half()(values), before)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", ["centered", "endpoints"])
def test_right_inverse_reproduces_the_weight_for_any_rule(rule, kind):
    weight = ContinuousWeight((6, 9, 3), sampling=Sampling(kind=kind, rule=rule))
    target = torch.randn(6, 9, 3, dtype=torch.float64)
    if kind == "endpoints" and isinstance(rule, (quadrature.LeftRiemann, quadrature.RightRiemann)):
        with pytest.raises(ValueError, match=r"weight: .* gives a point the weight 0"):
            weight.right_inverse(target)
        return
    assert relative(weight(weight.right_inverse(target)), target) < 1e-14
    assert relative(weight(weight.right_inverse(target.float())), target.float()) < 1e-6


def test_right_inverse_solves_for_partitions_away_from_the_control_values():
    partitions = [TrainablePartition(6, kind="centered", nodes=6), TrainablePartition(9, kind="centered", nodes=9)]
    with torch.no_grad():
        for partition in partitions:
            partition.logits.normal_(0, 0.1)
    for dims, shape in (((0, 1), (6, 9, 2)), ((1,), (3, 9)), ((0,), (6,))):
        weight = ContinuousWeight(shape, dims, partitions=[partitions[dim] for dim in dims])
        target = torch.randn(shape, dtype=torch.float64)
        assert relative(weight(weight.right_inverse(target)).detach(), target) < 1e-12


def test_blocks_are_sampled_as_one_channel():
    values = torch.randn(5, 8 * 6)
    weight = ContinuousWeight(values.shape, blocks=(1, 6))
    plain = ContinuousWeight((5, 8, 6))
    for sizes in ((5, 8), (3, 4)):
        weight.resize(sizes)
        plain.resize(sizes)
        assert torch.equal(weight(values), plain(values.view(5, 8, 6)).flatten(1))
    assert weight.sampled_shape == (3, 24)


def test_blocks_on_the_output_axis():
    values = torch.randn(8 * 4, 6)
    weight = ContinuousWeight(values.shape, blocks=(4, 1))
    assert torch.equal(weight(values), values)
    weight.resize((5, 3))
    plain = ContinuousWeight((8, 6))
    plain.resize((5, 3))
    expected = torch.stack([plain(values.view(8, 4, 6)[:, i]) for i in range(4)], 1).flatten(0, 1)
    torch.testing.assert_close(weight(values), expected)


def test_down_and_up_again_is_exact():
    values = torch.randn(9, 7)
    weight = ContinuousWeight(values.shape)
    weight.resize((4, 3))
    small = weight(values)
    weight.resize((None, 7))
    weight.resize((9, None))
    assert torch.equal(weight(values), values)
    weight.resize((4, 3))
    assert torch.equal(weight(values), small)


def test_more_points_than_control_values():
    weight = ContinuousWeight((6, 4))
    weight.resize((11, 9))
    assert weight(torch.randn(6, 4)).shape == (11, 9)


def test_a_shared_partition_is_followed():
    partition = UniformPartition(8, kind="centered", nodes=8)
    first, second = (ContinuousWeight((8,), (0,), partitions=[partition]) for _ in range(2))
    first.resize([5])
    assert second(torch.randn(8)).shape == (5,)


def test_a_trainable_partition_gets_a_gradient_and_the_values_do():
    partition = TrainablePartition(6, kind="centered", nodes=8)
    weight = ContinuousWeight((8, 5), partitions=[partition, None])
    values = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    weight(values).square().sum().backward()
    assert partition.logits.grad.abs().min() > 0
    assert values.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(weight, (values,))


def test_is_a_parametrization_of_any_module():
    linear = nn.Linear(12, 16)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    sampling = Sampling(rule=quadrature.Trapezoidal())
    parametrize.register_parametrization(linear, "weight", ContinuousWeight((16, 12), sampling=sampling))
    parametrize.register_parametrization(linear, "bias", ContinuousWeight((16,), dims=(0,)))
    torch.testing.assert_close(linear.weight, weight, rtol=1e-6, atol=1e-7)
    assert torch.equal(linear.bias, bias)
    linear.parametrizations.weight[0].resize((9, 7))
    linear.parametrizations.bias[0].resize((9,))
    assert linear(torch.zeros(2, 7)).shape == (2, 9)
    norm = nn.LayerNorm(16)
    parametrize.register_parametrization(norm, "weight", ContinuousWeight((16,), dims=(0,)))
    norm.parametrizations.weight[0].resize((10,))
    assert norm.weight.shape == (10,)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_are_independent_and_carry_no_bands(clone):
    weight = ContinuousWeight((8, 6))
    weight.resize((5, 4))
    values = torch.randn(8, 6)
    expected = weight(values)
    assert not weight.state_dict()
    other = clone(weight)
    assert torch.equal(other(values), expected)
    other.resize((3, 3))
    assert torch.equal(weight(values), expected)
    assert len(pickle.dumps(ContinuousWeight((4096, 4096)))) < 5_000


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "shape", {"shape": (1, 4)}),
        (ValueError, "shape", {"shape": (0, 4)}),
        (TypeError, "shape", {"shape": (4.0, 4)}),
        (ValueError, "dims", {"dims": (1, 0)}),
        (ValueError, "dims", {"dims": ()}),
        (ValueError, "dims", {"dims": (0, 2)}),
        (ValueError, "dims", {"dims": (True,)}),
        (ValueError, "blocks", {"blocks": (1, 3)}),
        (ValueError, "blocks", {"blocks": (1,)}),
        (TypeError, "blocks", {"blocks": (1, 2.0)}),
        (ValueError, "shape", {"blocks": (1, 4)}),
        (TypeError, "dims", {"dims": 0}),
        (TypeError, "blocks", {"blocks": 2}),
        (TypeError, "partitions", {"partitions": UniformPartition(4)}),
        (TypeError, "input_dim", {"input_dim": "in"}),
        (ValueError, "input_dim", {"input_dim": -1}),
        (ValueError, "input_dim", {"input_dim": 2}),
        (ValueError, "input_dim", {"shape": (8,), "dims": (0,), "input_dim": 2}),
        (TypeError, "shape", {"shape": 8}),
        (ValueError, "partitions", {"partitions": [None]}),
        (TypeError, r"partitions\[1\]", {"partitions": [None, 4]}),
        (ValueError, r"partitions\[0\]", {"partitions": [UniformPartition(4, kind="centered", nodes=5), None]}),
        (TypeError, "sampling", {"sampling": "centered"}),
    ],
)
def test_bad_arguments(error, name, arguments):
    with pytest.raises(error, match=rf"^{name}(\[\d\])?: expected"):
        ContinuousWeight(**{"shape": (4, 4), **arguments})


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "kind", {"kind": "centred"}),
        (TypeError, "rule", {"rule": quadrature.Midpoint}),
        (ValueError, "a", {"a": float("nan")}),
        (ValueError, "a", {"a": float("inf")}),
        (TypeError, "a", {"a": "-0.5"}),
        (ValueError, "padding", {"padding": "replicate"}),
        (TypeError, "antialias", {"antialias": 1}),
    ],
)
def test_bad_sampling(error, name, arguments):
    with pytest.raises(error, match=rf"^{name}: expected"):
        Sampling(**arguments)


@pytest.mark.parametrize(
    ("error", "sizes"),
    [
        (ValueError, (4, 1)),
        (ValueError, (4,)),
        (TypeError, (4, 3.0)),
        (TypeError, (True, 4)),
        (ValueError, (3, -1)),
        (ValueError, (4, 64 * 6 + 1)),
        (ValueError, (4, 10**13)),
    ],
)
def test_a_bad_resize_changes_nothing(error, sizes):
    weight = ContinuousWeight((6, 6))
    with pytest.raises(error, match=r"^sizes"):
        weight.resize(sizes)
    assert weight.sizes == (6, 6)


def test_sizes_can_be_numpys():
    weight = ContinuousWeight((6, 6))
    weight.resize((np.int64(4), np.int32(64 * 6)))
    assert weight.sizes == (4, 384)
    assert all(type(size) is int for size in weight.sizes)


def test_bad_values():
    weight = ContinuousWeight((6, 6))
    for call, name in ((weight, "control_values"), (weight.right_inverse, "weight")):
        with pytest.raises(TypeError, match=rf"^{name}: expected"):
            call([1.0])
        with pytest.raises(TypeError, match=rf"^{name}: expected"):
            call(torch.zeros(6, 6, dtype=torch.int64))
        with pytest.raises(ValueError, match=rf"^{name}: expected shape"):
            call(torch.zeros(6, 5))
    weight.resize((5, 5))
    with pytest.raises(ValueError, match=r"^weight: expected the partitions at full size \(6, 6\)"):
        weight.right_inverse(torch.zeros(6, 6))


def _parts(kind: str) -> tuple[UniformPartition, TrainablePartition]:
    return UniformPartition(8, kind=kind, nodes=8), TrainablePartition(6, kind=kind, nodes=6)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", ["centered", "endpoints"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("sizes", [(8, 6), (4, 3), (2, 11), (13, 2)])
def test_a_concatenation_is_sampled_part_by_part(antialias, kind, block, sizes):
    a, b = _parts(kind)
    sampling = Sampling(kind=kind, antialias=antialias)
    values = torch.randn(3, 25 * block, 2, dtype=torch.float64)
    whole = ContinuousWeight(
        values.shape, (1,), blocks=[block], partitions=[Concatenation([a, 3, b, a])], sampling=sampling
    )
    a.resize(sizes[0])
    b.resize(sizes[1])
    pieces = []
    for start, part in ((0, a), (8, None), (11, b), (17, a)):
        piece = values[:, start * block : (start + (3 if part is None else part.nodes)) * block]
        if part is not None:
            piece = ContinuousWeight(piece.shape, (1,), blocks=[block], partitions=[part], sampling=sampling)(piece)
        pieces.append(piece)
    torch.testing.assert_close(whole(values), torch.cat(pieces, 1))
    assert whole.sampled_shape == whole(values).shape


@pytest.mark.parametrize("antialias", [True, False])
def test_the_parts_of_a_concatenation_may_have_different_blocks(antialias):
    a, b = _parts("centered")
    sampling = Sampling(antialias=antialias)
    values = torch.randn(3, 8 * 4 + 3 + 6, dtype=torch.float64)
    whole = ContinuousWeight(values.shape, (1,), partitions=[Concatenation([a, 3, b], [4, 1, 1])], sampling=sampling)
    assert torch.equal(whole(values), values)
    a.resize(5)
    b.resize(3)
    first = ContinuousWeight((3, 32), (1,), blocks=[4], partitions=[a], sampling=sampling)(values[:, :32])
    last = ContinuousWeight((3, 6), (1,), partitions=[b], sampling=sampling)(values[:, 35:])
    torch.testing.assert_close(whole(values), torch.cat([first, values[:, 32:35], last], 1))


def test_control_values_of_a_concatenation_are_found_again():
    a, b = UniformPartition(8, nodes=8), UniformPartition(6, nodes=6)
    sampling = Sampling("endpoints", quadrature.Trapezoidal())
    weight = ContinuousWeight((3, 17), (1,), partitions=[Concatenation([a, b, 3])], sampling=sampling)
    values = torch.randn(3, 17)
    torch.testing.assert_close(weight(weight.right_inverse(values)), values)


def test_parts_that_change_places_are_noticed():
    a, b = UniformPartition(8, nodes=8), UniformPartition(6, nodes=6)
    weight = ContinuousWeight((14,), (0,), input_dim=None, partitions=[Concatenation([a, b])])
    a.resize(5)
    b.resize(4)
    values = torch.randn(14)
    weight(values)
    a.resize(4)
    b.resize(5)
    expected = copy.deepcopy(weight)(values)
    assert torch.equal(weight(values), expected)


def test_bad_concatenated_axes():
    a = UniformPartition(8, nodes=8)
    with pytest.raises(ValueError, match=r"^partitions\[0\]: expected a partition with nodes=12"):
        ContinuousWeight((12,), (0,), partitions=[Concatenation([a, 3])])
    weight = ContinuousWeight((11,), (0,), partitions=[Concatenation([a, 3])])
    with pytest.raises(ValueError, match=r"^sizes\[0\]: expected None where parts are concatenated"):
        weight.resize([5])
    assert weight.sizes == (11,)


# -------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(("layer", "arguments", "shape"), LAYERS)
def test_a_discrete_checkpoint_loads_as_control_values(layer, arguments, shape):
    twin = layer.twin(*arguments)
    integral = layer(*arguments)
    assert integral.load_state_dict(twin.state_dict()).missing_keys == []
    x = torch.randn(shape)
    assert torch.equal(integral(x), twin(x))


@pytest.mark.parametrize(("layer", "arguments", "shape"), LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_from_discrete_and_back_is_the_same_layer(layer, arguments, shape, bias):
    twin = layer.twin(*arguments, bias=bias).double().eval()
    twin.weight.requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64)
    before = copy.deepcopy(twin.state_dict())
    integral = layer.from_discrete(twin, sampling=Sampling(kind="endpoints", rule=quadrature.Trapezoidal(), a=-0.75))
    assert relative(integral(x), twin(x)) < 1e-13
    assert not integral.training
    assert not integral.weight.requires_grad
    assert integral.weight.dtype == torch.float64
    back = integral.discretize()
    assert type(back) is layer.twin
    assert repr(back) == repr(twin)
    assert not back.training
    assert not back.weight.requires_grad
    assert bias is (back.bias is not None)
    assert not bias or back.bias.requires_grad
    assert torch.equal(back(x), integral(x))
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


@pytest.mark.parametrize(("layer", "arguments", "shape"), LAYERS)
def test_sizes_change_the_layer_and_its_discretization_alike(layer, arguments, shape):
    integral = layer(*arguments)
    integral.resize(5, 3)
    x = torch.randn(shape[0], 3, *shape[2:])
    y = integral(x)
    assert integral.sizes == (5, 3)
    assert y.shape[1] == 5
    discrete = integral.discretize()
    assert torch.equal(discrete(x), y)
    assert discrete.weight.shape[:2] == (5, 3)
    assert repr(discrete).replace(layer.twin.__name__, "") in repr(integral).replace("\n", "").replace("  ", "") or (
        getattr(integral, layer.size_names[0]) == 3 and getattr(integral, layer.size_names[1]) == 5
    )
    integral.resize(out_size=8)
    assert integral.sizes == (8, 3)


def test_only_continuous_axes_are_sampled():
    conv = nn.Conv2d(3, 8, 3)
    integral = IntegralConv2d.from_discrete(conv, dims=(0,))
    integral.resize(out_size=5)
    assert integral(torch.zeros(1, 3, 5, 5)).shape == (1, 5, 3, 3)
    head = IntegralLinear.from_discrete(nn.Linear(8, 10), dims=(1,))
    head.resize(in_size=4)
    assert head.sizes == (10, 4)
    assert head(torch.zeros(1, 4)).shape == (1, 10)
    assert head.continuous_bias is None
    for layer, axis in ((integral, "in_size"), (head, "out_size")):
        with pytest.raises(ValueError, match=rf"^{axis}: expected None"):
            layer.resize(**{axis: 4})


def test_an_input_axis_with_blocks():
    linear = nn.Linear(6 * 4, 5)
    integral = IntegralLinear.from_discrete(linear, blocks=(1, 4))
    integral.resize(in_size=3)
    assert integral.in_features == 12
    assert integral.sizes == (5, 3)
    assert integral.discretize().weight.shape == (5, 12)


def test_the_bias_follows_the_output_axis():
    layer = IntegralLinear(4, 8)
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(0, 7, 8))
    layer.resize(out_size=4)
    # Cells of two channels, at their centres; the cubic kernel is antialiased and cut off at the two ends.
    torch.testing.assert_close(layer.sample()[1][1:3], torch.tensor([2.5, 4.5]), rtol=0, atol=0.1)
    assert layer.continuous_weight.partitions[0] is layer.continuous_bias.partitions[0]


def test_gradients_reach_the_control_values():
    layer = IntegralConv2d(4, 6, 3, dtype=torch.float64)
    layer.resize(5, 3)
    weight, bias = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    call = lambda w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(call, (weight, bias))


def test_padding_modes_are_the_twins():
    conv = nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", dilation=2)
    integral = IntegralConv2d.from_discrete(conv)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(integral(x), conv(x))
    assert torch.equal(integral.discretize()(x), conv(x))


def test_resizing_by_half_approximates_a_smooth_layer():
    # A smooth kernel W(y, x) with cell-centred nodes: Σ_i W(y, x_i) f(x_i) / S converges to the same integral.
    def grid(n):
        return (torch.arange(n, dtype=torch.float64) + 0.5) / n

    def kernel(out, inputs):
        return torch.exp(-((grid(out)[:, None] - grid(inputs)) ** 2)) / inputs

    layer = IntegralLinear.from_discrete(nn.Linear(64, 48, bias=False, dtype=torch.float64))
    with torch.no_grad():
        layer.weight.copy_(kernel(48, 64))
    layer.resize(24, 32)
    actual = layer(torch.cos(grid(32)))
    assert relative(actual, kernel(24, 64) @ torch.cos(grid(64))) < 2e-3


def test_compiles_to_one_graph_and_again_after_a_resize():
    for layer in (IntegralLinear(10, 8), IntegralLinear.from_discrete(nn.Linear(10, 8))):
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        for sizes in ((8, 10), (5, 6), (4, 7)):
            layer.resize(*sizes)
            x = torch.randn(3, sizes[1])
            torch.testing.assert_close(compiled(x), layer(x))


def test_compiles_with_a_trainable_partition():
    layer = IntegralLinear(10, 8, partitions=[TrainablePartition(5, kind="centered", nodes=8), None])
    x = torch.randn(3, 10)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_torch_save_round_trip(tmp_path):
    layer = IntegralConv2d(4, 6, 3)
    layer.resize(5, 3)
    torch.save(layer, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(loaded(x), layer(x))
    assert loaded.continuous_weight.partitions[0] is loaded.continuous_bias.partitions[0]


def test_bands_made_in_inference_mode_serve_training_too():
    layer, x = IntegralLinear(10, 8), torch.randn(3, 6)
    with torch.inference_mode():
        layer.resize(5, 6)
        expected = layer(x)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, expected)
    assert layer.weight.grad.any()


def test_layers_made_of_fake_tensors_leave_others_alone():
    sampling = Sampling()
    with FakeTensorMode():
        fake = IntegralLinear(10, 8, sampling=sampling)
        assert fake(torch.zeros(3, 10)).shape == (3, 8)
    layer = IntegralLinear(10, 8, sampling=sampling)
    assert type(layer(torch.zeros(3, 10))) is torch.Tensor


def test_runs_under_autocast():
    layer = IntegralLinear(10, 8)
    layer.resize(5, 6)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)


def test_grouped_convolutions_are_refused():
    with pytest.raises(ValueError, match=r"^groups: expected 1, got 2"):
        IntegralConv2d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match=r"^groups: expected 1, got 4"):
        IntegralConv2d.from_discrete(nn.Conv2d(4, 4, 3, groups=4))


def test_from_discrete_refuses_other_modules():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    for module in (nn.Conv2d(4, 4, 3), Scaled(4, 4), IntegralLinear(4, 4), "linear"):
        with pytest.raises(TypeError, match=r"^module: expected a torch\.nn\.Linear"):
            IntegralLinear.from_discrete(module)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_from_discrete_refuses_hooks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.nn.utils.weight_norm is deprecated, and found in old networks
        module = getattr(nn.utils, name)(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"^module: expected a layer without hooks"):
        IntegralLinear.from_discrete(module)


@pytest.mark.parametrize("dims", [(0, 2), (2,), (1, 0), ()])
def test_layers_have_two_axes(dims):
    with pytest.raises(ValueError, match=r"^dims: expected different ints from 0 to 1, increasing"):
        IntegralConv2d(4, 4, 3, dims=dims)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cls", [UniformPartition, TrainablePartition])
def test_a_layer_follows_a_partition_that_is_resized_elsewhere(cls, compiled):
    torch.compiler.reset()  # there is a limit to the graphs of one function, over all instances
    partition = cls(8, kind="centered", nodes=8)
    layer, x = IntegralLinear(10, 8, partitions=[partition, None]), torch.randn(3, 10)
    forward = torch.compile(layer, fullgraph=True, backend="eager") if compiled else layer
    for size in (8, 5, 7):
        partition.resize(size)
        assert forward(x).shape == (3, size)
        assert layer.out_features == size
        assert f"out_features={size}" in repr(layer)
        torch.testing.assert_close(forward(x), layer(x))


@pytest.mark.parametrize(
    ("error", "name", "sizes"),
    [
        (ValueError, "out_size", (1, 4)),
        (ValueError, "in_size", (None, 0)),
        (TypeError, "in_size", (4, 2.5)),
        (TypeError, "out_size", (True, None)),
        (ValueError, "in_size", (4, 10**13)),
        (ValueError, "in_size", (4, 64 * 6 + 1)),
    ],
)
def test_a_bad_layer_resize_changes_nothing(error, name, sizes):
    layer = IntegralLinear(6, 6)
    with pytest.raises(error, match=rf"^{name}: expected"):
        layer.resize(*sizes)
    assert layer.sizes == (6, 6)
    assert layer.in_features == 6


def test_making_layers_from_discrete_ones_draws_no_random_numbers():
    linear = nn.Linear(8, 8)
    state = torch.get_rng_state()
    IntegralLinear.from_discrete(linear).discretize()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_listing_is_one_of_the_samplings():
    # Listings 1 and 2: bicubic grid_sample on linspace(-1, 1), zeros outside.
    layer = IntegralConv2d(10, 12, 3, sampling=Sampling("endpoints", a=-0.75, padding="zeros", antialias=False))
    layer.resize(9, 7)
    rows, columns = (torch.linspace(-1, 1, n) for n in (9, 7))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)[None]
    values = layer.weight.detach().permute(2, 3, 0, 1).reshape(1, 9, 12, 10)
    sampled = F.grid_sample(values, grid, mode="bicubic", align_corners=True, padding_mode="zeros")
    expected = sampled[0].view(3, 3, 9, 7).permute(2, 3, 0, 1)
    rho = quadrature.Midpoint().weights(columns.double(), (-1.0, 1.0)) * 10 / 2
    torch.testing.assert_close(layer.sample()[0], expected * rho.float().view(1, 7, 1, 1), rtol=1e-5, atol=1e-6)
