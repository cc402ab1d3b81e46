"""Which channels become continuous together, and which stay discrete, and why."""

import copy

import models
import pytest
import torch
import torch.nn.functional as F
from models import converted
from torch import nn

from integralrob.conversion import convert
from integralrob.conversion.check import relative_difference

pytest.importorskip("torch_pruning")


def test_groups_of_a_residual_network():
    _, _, integral = converted(models.ResidualNet)
    members = {name: [(m.layer, m.dim, m.block) for m in group.members] for name, group in integral.groups.items()}
    assert members == {
        "stem.0": [
            ("stem.0", 0, 1), ("blocks.0.conv1", 1, 1), ("blocks.0.conv2", 0, 1), ("blocks.1.conv1", 1, 1),
            ("blocks.1.conv2", 0, 1), ("blocks.2.conv1", 1, 1), ("blocks.2.shortcut.0", 1, 1),
        ],
        "blocks.0.conv1": [("blocks.0.conv1", 0, 1), ("blocks.0.conv2", 1, 1)],
        "blocks.1.conv1": [("blocks.1.conv1", 0, 1), ("blocks.1.conv2", 1, 1)],
        "blocks.2.conv1": [("blocks.2.conv1", 0, 1), ("blocks.2.conv2", 1, 1)],
        "blocks.2.conv2": [("blocks.2.conv2", 0, 1), ("blocks.2.shortcut.0", 0, 1), ("head", 1, 1)],
    }  # fmt: skip
    assert [(entry.name, entry.reason) for entry in integral.report] == [("head", "is an output of the model")]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in integral.modules())


def test_a_flattened_axis_has_blocks():
    _, _, integral = converted(models.PlainCNN)
    assert [(m.layer, m.dim, m.block) for m in integral.groups["conv2"].members] == [("conv2", 0, 1), ("fc1", 1, 9)]
    integral.resize({"conv2": 5})
    assert integral.module.fc1.in_features == 45


@pytest.mark.parametrize(
    ("network", "groups", "skipped"),
    [
        (
            models.Tied,
            ["head.0"],
            {"stem": ("middle", "shares"), "middle": ("middle", "shares"), "other": ("other", "sh")},
        ),
        (models.Masked, ["middle", "head.0"], {"stem": ("stem", "at full size")}),
        (models.Constant, ["middle", "head.0"], {"stem": ("stem", "does not run at other sizes")}),
        (models.Shuffled, ["middle", "head.0"], {"stem": ("View", "reshapes")}),
        (models.JoinsInput, ["down"], {"up": ("Add", "an input of the model")}),
        (models.TwoOutputs, ["stem", "head.0"], {"middle": ("Mean", "an output of the model")}),
        (models.Summed, ["middle", "head.0"], {"stem": ("Sum", "sums over these channels")}),
        (models.Softmaxed, ["middle", "head.0"], {"stem": ("Softmax", "works along these channels")}),
        (models.Strided, ["middle", "head.0"], {"stem": ("Slice", "every n-th")}),
        (models.Padded, ["middle", "head.0"], {"stem": ("ConstantPad", "changes the number")}),
    ],
)
def test_what_cannot_be_continuous_stays_discrete_alone(network, groups, skipped):
    model, x, integral = converted(network)
    assert list(integral.groups) == groups
    report = {entry.name: (entry.module, entry.reason) for entry in integral.report}
    report = {
        name: entry for name, entry in report.items() if entry[1] != "is an output of the model" or name in skipped
    }
    assert report.keys() == skipped.keys()
    for name, (module, reason) in skipped.items():
        assert module in report[name][0]
        assert reason in report[name][1]
    integral.resize(0.5)
    integral(x)
    integral.resize(1.0)
    for actual, expected in zip(_tensors(integral(x)), _tensors(model(x)), strict=True):
        assert relative_difference(actual, expected) < 3e-6


def _tensors(outputs):
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("network", [models.Masked, models.Constant, models.Shuffled])
def test_the_groups_are_checked_whatever_the_order(network):
    _, _, integral = converted(network, order=None)
    assert list(integral.groups) == ["middle", "head.0"]


@pytest.mark.parametrize(
    ("network", "groups", "unseen"),
    [
        (
            models.Unseen,
            ["stem", "head.0"],
            {"idle": "is not called", "choice": "no gradient", "functional": "is not called"},
        ),
        (models.Attentive, ["head.0"], {"attention.out_proj": "is not called"}),
    ],
)
def test_layers_that_are_not_in_the_graph_are_reported(network, groups, unseen):
    _, _, integral = converted(network)
    assert list(integral.groups) == groups
    report = {entry.name: entry.reason for entry in integral.report}
    in_report = {name for name, reason in report.items() if reason.startswith("is not in the traced graph: ")}
    assert in_report == unseen.keys()
    for name, reason in unseen.items():
        assert reason in report[name]


class OtherMatrices(nn.Module):
    """Matrices of modules that are no layers with channels, beside a parameter that has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.memory = nn.Linear(4, 8), nn.LSTM(8, 6, batch_first=True)
        self.middle, self.positions = nn.Linear(6, 10), nn.Parameter(torch.randn(1, 5, 10))
        self.hidden, self.head = nn.utils.parametrizations.weight_norm(nn.Linear(10, 7)), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.hidden(self.middle(self.memory(self.up(x))[0]) + self.positions))


def test_modules_without_channels_are_reported():
    integral = convert(OtherMatrices(), torch.randn(2, 5, 4), progress=False)
    assert [(entry.name, entry.module, entry.reason) for entry in integral.report] == [
        ("up", "memory", "is of the type LSTM, which has no integral layer"),
        ("middle", "hidden", "is of the type ParametrizedLinear, which has no integral layer"),
        ("hidden", "hidden", "is of the type ParametrizedLinear, which has no integral layer"),
        ("head", "head", "is an output of the model"),
        ("memory", "memory", "is of the type LSTM, which has no integral layer"),
    ]


def test_parameters_have_their_channels_where_those_that_they_join_are():
    class Positions(nn.Sequential):
        """Parameters for each channel and each place, and for each place."""

        example_shape = (2, 3, 12)

        def __init__(self):
            super().__init__(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 2, 1))
            self.both = nn.Parameter(torch.randn(1, 8, 12))
            self.places = nn.Parameter(torch.randn(12))

        def forward(self, x):
            return self[2](self.both + self.places * self[0](x))

    _, x, integral = converted(Positions)
    assert [(m.layer, m.dim) for m in integral.groups["0"].members] == [("both", 1), ("0", 0), ("2", 1)]
    integral.resize(0.5)
    discrete = integral.discretize()
    assert (discrete.both.shape, discrete.places.shape) == ((1, 4, 12), (12,))
    assert torch.equal(discrete(x), integral(x))


def test_an_embedding_with_sparse_gradients_stays_discrete():
    model = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    integral = convert(model, torch.tensor([1, 2]), progress=False)
    assert list(integral.groups) == ["1"]
    assert ("0", "is an embedding with a largest norm or with sparse gradients") in {
        (entry.name, entry.reason) for entry in integral.report
    }


def test_pieces_of_a_chunk_stay_equally_large():
    """`chunk` cuts in the middle, wherever that is: channels that it parts cannot have sizes of their own."""

    class Halves(models.Awkward):
        def __init__(self):
            super().__init__()
            self.middle, self.other = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)

        def trunk(self, x):
            left, right = self.stem(x).chunk(2, 1)
            return F.relu(self.middle(left) * self.other(right))

    _, x, integral = converted(Halves)
    members = {(m.layer, m.dim, m.start) for m in integral.groups["stem"].members}
    assert members == {("stem", 0, 0), ("stem", 0, 4), ("middle", 1, 0), ("other", 1, 0)}
    integral.resize({"stem": 3})
    assert integral.discretize().stem.out_channels == 6
    integral(x)


def test_pieces_of_a_split_have_sizes_of_their_own_where_the_code_allows_it():
    class Parts(models.Awkward):
        def __init__(self):
            super().__init__()
            self.middle, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(5, 8, 3, padding=1)

        def trunk(self, x):
            sizes = [conv.weight.shape[1] if type(conv) is nn.Conv2d else conv.in_channels for conv in self.parts()]
            left, right = self.stem(x).split(sizes, 1)
            return F.relu(self.middle(left) * self.other(right))

        def parts(self):
            return self.middle, self.other

    _, x, integral = converted(Parts)
    assert list(integral.sizes.items())[:2] == [("stem[0:3]", 3), ("stem[3:8]", 5)]
    integral.resize({"stem[0:3]": 2, "stem[3:8]": 4})
    assert integral.discretize().stem.out_channels == 6
    integral(x)


def test_groups_that_fail_only_together_stay_discrete_together():
    class Twins(models.Awkward):
        """Two layers that must have the same number of channels, though nothing connects them."""

        def __init__(self):
            super().__init__()
            self.middle, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 8, 1)

        def trunk(self, x):
            a, b = self.stem(x), self.other(x)
            assert (a.shape[1] == 8) != (b.shape[1] == 8) or a.shape[1] == b.shape[1] == 8
            return F.relu(self.middle(a) + self.last(b))

    _, _, integral = converted(Twins)
    reasons = {entry.name: entry.reason for entry in integral.report}
    assert "does not run at other sizes" in reasons["stem"]
    assert "does not run at other sizes" in reasons["other"]
    integral.resize(0.5)


def test_layers_with_hooks_stay_as_they_are():
    model, x = models.seeded(models.MLP), models.example(models.MLP)
    torch.nn.utils.spectral_norm(model[0])  # recomputes the weight in a hook
    integral = convert(model, x, progress=False)
    assert list(integral.groups) == ["2"]
    assert {entry.name: entry.reason for entry in integral.report}["0"] == "has hooks"
    assert relative_difference(integral(x), model(x)) < 3e-6


class TwoNames(nn.Module):
    """Layers that have a second name, or are in a list that torch does not know, by which they are called."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.stages = kind([self.conv, self.norm, nn.ReLU(), self.head])

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


@pytest.mark.parametrize("kind", [nn.ModuleList, list])
@pytest.mark.parametrize("fuse_bn", [True, False])
def test_layers_with_two_names_are_converted_under_both(fuse_bn, kind):
    model = TwoNames(kind).eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 1, 6, 6)
    integral = convert(model, x, fuse_bn=fuse_bn, progress=False)
    assert integral.sizes == {"conv": 8}
    integral.resize(0.5)
    small = integral.discretize()
    assert small.stages[0] is small.conv
    assert small.stages[0](x).shape[1] == 4
    assert torch.equal(integral(x), small(x))


class Extras(nn.Module):
    """Layers with more than their types give them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.middle, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1)
        self.conv.gain = 2.0
        self.middle.register_buffer("shift", torch.ones(1))
        self.middle.scale = nn.Parameter(torch.full((1,), 3.0))
        self.middle.act = nn.Tanh()

    def forward(self, x):
        x = self.conv(x) * self.conv.gain
        return self.head(self.middle.act(self.middle(x) * self.middle.scale + self.middle.shift))


def test_layers_keep_what_else_they_have():
    model, x = Extras(), torch.randn(2, 1, 6, 6)
    integral = convert(model, x, progress=False)
    assert integral.sizes == {"conv": 8, "middle": 12}
    assert {"module.middle.shift", "module.middle.scale"} <= integral.state_dict().keys()
    integral.resize(0.5)
    small = integral.discretize()
    assert (type(small.conv), small.conv.gain, type(small.middle.act)) == (nn.Conv2d, 2.0, nn.Tanh)
    assert torch.equal(integral(x), small(x))


class OfItsClass(nn.Module):
    """Runs only if a layer's class is the one it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        if type(self.first) is not nn.Linear:
            raise TypeError("first: expected a Linear")
        return self.head(self.second(self.first(x)))


def test_a_group_with_which_the_network_does_not_run_stays_discrete_alone():
    integral = convert(OfItsClass(), torch.randn(2, 4), progress=False)
    assert integral.sizes == {"second": 12}
    assert ("first", "does not run at full size: first: expected a Linear") in [
        (entry.name, entry.reason) for entry in integral.report
    ]


def test_a_batch_norm_is_fused_only_where_nothing_else_reads_the_layer():
    class Leaky(models.PlainCNN):
        def forward(self, x):
            x = self.conv1(x)
            x = F.relu(self.bn1(x)) + x
            x = F.relu(self.bn2(self.conv2(F.max_pool2d(x, 2))))
            return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))

    model, x, integral = converted(Leaky)
    assert isinstance(integral.module.bn1, nn.BatchNorm2d)
    assert isinstance(integral.module.bn2, nn.Identity)
    assert list(integral.groups) == ["conv1", "conv2", "fc1"]
    assert relative_difference(integral(x), model(x)) < 3e-6


class Unread(nn.Module):
    """Runs layers whose results nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.aside, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        self.norm(self.aside(x))
        return self.head(self.second(self.first(x)))


def test_layers_whose_results_nobody_reads_stay_discrete():
    integral = convert(Unread(), torch.randn(2, 4), progress=False)
    assert integral.sizes == {"first": 8, "second": 8}
    assert isinstance(integral.module.norm, nn.BatchNorm1d)


def test_a_lone_layer_has_nothing_to_convert():
    model, x = nn.Linear(6, 4), torch.randn(2, 6)
    integral = convert(model, x, progress=False)
    assert not integral.groups
    assert [(entry.name, entry.reason) for entry in integral.report] == [("", "is an output of the model")]
    integral.resize(0.5)
    assert torch.equal(integral(x), model(x))


def test_dims_choose_the_groups():
    _, x, integral = converted(models.PlainCNN, dims=["conv2"])
    assert list(integral.groups) == ["conv2"]
    assert {entry.name for entry in integral.report if entry.reason == "is not in dims"} == {"conv1", "fc1"}
    assert type(integral.module.fc2) is nn.Linear
    integral.resize(0.5)
    assert integral(x).shape == (2, 10)
    assert not converted(models.PlainCNN, dims=[])[2].groups


class LanguageModel(nn.Module):
    """Its output layer reads the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(30, 16), nn.LayerNorm(16), nn.Linear(16, 30, bias=False)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head.weight = self.words.weight

    def forward(self, words):
        x = self.words(words)
        return self.head(x + self.mlp(self.norm(x)))


def test_weights_that_an_embedding_shares_with_the_output_stay_discrete_and_shared():
    model, words = models.seeded(LanguageModel), torch.tensor([[1, 2, 29]])
    integral = convert(model, words, progress=False)
    assert list(integral.groups) == ["mlp.0"]
    reasons = {entry.name: entry.reason for entry in integral.report}
    assert reasons == {"words": "shares a parameter with another module", "head": "is an output of the model"}
    assert relative_difference(integral(words), model(words)) < 1e-6
    integral.resize(0.5)
    for network in (integral.module, integral.discretize(), copy.deepcopy(integral).module):
        assert network.head.weight is network.words.weight
    assert integral.discretize().mlp[0].out_features == 16


class Conv1D(nn.Module):
    """GPT-2's linear layer as transformers has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


Conv1D.__module__ = "transformers.pytorch_utils"


def test_linear_layers_of_gpt2_are_continuous():
    class Residual(nn.Module):
        example_shape = (2, 5, 6)

        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)
            self.mlp, self.unused = nn.Sequential(Conv1D(32, 16), nn.GELU(), Conv1D(16, 32)), Conv1D(4, 4)

        def forward(self, x):
            x = self.first(x)
            return self.last(x + self.mlp(self.norm(x)))

    model, x, integral = converted(Residual)
    members = {name: [(m.layer, m.dim) for m in group.members] for name, group in integral.groups.items()}
    assert members == {
        "first": [("first", 0), ("norm", 0), ("last", 1), ("mlp.0", 1), ("mlp.2", 0)],
        "mlp.0": [("mlp.0", 0), ("mlp.2", 1)],
    }
    assert {entry.name for entry in integral.report} == {"last", "unused"}
    assert relative_difference(integral(x), model(x)) < 3e-6
    integral.resize({"first": 10, "mlp.0": 12})
    discrete = integral.discretize()
    assert [(layer.nx, layer.nf, tuple(layer.weight.shape)) for layer in (discrete.mlp[0], discrete.mlp[2])] == [
        (10, 12, (10, 12)), (12, 10, (12, 10)),
    ]  # fmt: skip
    assert torch.equal(discrete(x), integral(x))
    linear = integral.discretize()  # the same as with torch's own layers
    for i in (0, 2):
        linear.mlp[i] = nn.Linear(*linear.mlp[i].weight.shape)
        linear.mlp[i].weight, linear.mlp[i].bias = nn.Parameter(discrete.mlp[i].weight.T), discrete.mlp[i].bias
    assert relative_difference(linear(x), discrete(x)) < 1e-6


def test_complex_weights_stay_discrete():
    class Complex(models.MLP):
        def forward(self, x):
            return self[4](self[2](self[0](x.to(torch.complex64))).abs())

    model = models.seeded(Complex)
    model[0], model[2] = nn.Linear(12, 24, dtype=torch.complex64), nn.Linear(24, 16, dtype=torch.complex64)
    integral = convert(model, models.example(models.MLP), progress=False)
    assert not integral.groups
    assert "has complex weights" in {entry.reason for entry in integral.report}
    with torch.no_grad():
        model[0].weight[0, 0] = complex(0, float("nan"))
    with pytest.raises(ValueError, match=r"^model: expected finite weights, got NaN or infinity in '0.weight'"):
        convert(model, models.example(models.MLP), progress=False)
