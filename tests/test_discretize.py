"""What `discretize` gives is a plain network, which other tools take and which needs nothing of this package."""

import contextlib
import functools
import io
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from models import converted
from torch import nn

from integralrob.conversion import IntegralModel, convert
from integralrob.conversion.check import relative_difference

pytest.importorskip("torch_pruning")

NETWORKS = [value for value in vars(networks).values() if isinstance(value, type) and hasattr(value, "example_shape")]
CASES = [(network, fuse) for network in NETWORKS for fuse in (True, False)]
IDS = [f"{network.__name__}{'' if fuse else '-norms-kept'}" for network, fuse in CASES]
# Kept norms, blocks, transposed and depthwise convolutions, gated units, PReLU, pixel shuffles, parameters, embeddings.
FEW = [(networks.Fusion, False), (networks.GatedConv, False), (networks.EDSR, True), (networks.BERT, True)]


@functools.cache
def case(network: type[nn.Module], fuse_bn: bool) -> tuple[torch.Tensor, IntegralModel, nn.Module]:
    """The example, and the converted network at uneven sizes, and its discretisation; for all tests the same."""
    _, x, integral = converted(network, fuse_bn=fuse_bn, order=None)
    integral.resize(
        {name: max(2, group.full_size // 2 + i % 3) for i, (name, group) in enumerate(integral.groups.items())}
    )
    return x, integral.eval(), integral.discretize()


def reachable(value: Any) -> list[tuple[str, Any]]:
    """All that can be reached from an object through attributes, containers, closures and bound methods."""
    found, seen, stack = [], set(), [("", value)]
    while stack:
        path, value = stack.pop()
        if id(value) in seen or isinstance(value, types.ModuleType):
            continue
        seen.add(id(value))
        found.append((path, value))
        if isinstance(value, dict):
            stack += [
                (f"{path}[{key!r}]", item)
                for pair in value.items()
                for key, item in zip(pair[:1] * 2, pair, strict=True)
            ]
        elif isinstance(value, (list, tuple, set, frozenset)):
            stack += [(f"{path}[]", item) for item in value]
        elif isinstance(value, functools.partial):
            stack += [(f"{path}.partial", item) for item in (value.func, value.args, value.keywords)]
        elif isinstance(value, types.MethodType):
            stack += [(f"{path}.__self__", value.__self__), (f"{path}.__func__", value.__func__)]
        elif isinstance(value, types.FunctionType):
            stack += [(f"{path}.closure", cell.cell_contents) for cell in value.__closure__ or ()]
        elif not isinstance(value, type) and hasattr(value, "__dict__"):
            stack.append((f"{path}.__dict__", vars(value)))
    return found


@pytest.mark.parametrize(("network", "fuse_bn"), CASES, ids=IDS)
def test_nothing_of_this_package_is_left(network, fuse_bn):
    _, integral, discrete = case(network, fuse_bn)
    of_this_package = [
        (path, value)
        for path, value in reachable(discrete)
        for kind in (value if isinstance(value, type) else type(value), value)
        if str(getattr(kind, "__module__", "")).startswith("integralrob")
        or "integral" in str(getattr(kind, "__name__", ""))
    ]
    assert not of_this_package
    assert not any("integral" in name for module in discrete.modules() for name in dir(module))
    assert not any(nn.utils.parametrize.is_parametrized(module) for module in discrete.modules())
    for module in discrete.modules():
        assert not any(hooks for name, hooks in vars(module).items() if "_hooks" in name and name[:4] != "_is_")
    assert b"integralrob" not in pickle.dumps(discrete)
    buffer = io.BytesIO()
    torch.save(discrete, buffer)
    assert b"integralrob" not in buffer.getvalue()
    assert sum(p.numel() for p in discrete.parameters()) < sum(p.numel() for p in integral.module.parameters())


@pytest.mark.parametrize(
    "hide",
    [
        lambda plain, integral: plain.register_forward_hook(lambda *_: integral),
        lambda plain, integral: setattr(plain, "note", {"deep": [functools.partial(print, integral)]}),
        lambda plain, integral: setattr(plain, "forward", integral.forward),
    ],
)
def test_the_walk_would_find_this_package(hide):
    plain, integral = nn.Linear(2, 2), case(networks.BERT, True)[1]
    hide(plain, integral)
    assert any(value is integral for _, value in reachable(plain))


def sizes_of_tensors(module: nn.Module) -> dict[str, Any]:
    """What the attributes of a layer have to be, by its tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = weight.shape[:2]
        if module.transposed:
            return {"in_channels": first, "out_channels": second * module.groups}
        return {"out_channels": first, "in_channels": second * module.groups}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        tensors = [tensor for tensor in (weight, module.running_mean, module.running_var) if tensor is not None]
        return {"num_features": len(tensors[0])} if tensors else {}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight.shape[0]}
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    return {}


@pytest.mark.parametrize(("network", "fuse_bn"), CASES, ids=IDS)
def test_attributes_are_those_of_the_tensors(network, fuse_bn):
    x, _, discrete = case(network, fuse_bn)
    widths = {}  # of what each layer without tensors is given, as a norm that has none
    with contextlib.ExitStack() as stack:
        for module in discrete.modules():
            hook = module.register_forward_pre_hook(lambda module, args: widths.update({module: args[0].shape}))
            stack.callback(hook.remove)
        discrete(x)
    for name, module in discrete.named_modules():
        for attribute, size in sizes_of_tensors(module).items():
            assert getattr(module, attribute) == size, (name, attribute)
        if hasattr(module, "num_features"):
            assert module.num_features == widths[module][1], name
        if isinstance(module, nn.modules.conv._ConvNd):
            assert widths[module][1] % module.groups == module.out_channels % module.groups == 0, name


ALONE = """
import sys
sys.modules["integralrob"] = sys.modules["torch_pruning"] = None  # an import of them fails
sys.path.insert(0, sys.argv[1])
import torch
for name, (discrete, x, expected) in torch.load(sys.argv[2], weights_only=False).items():
    outputs = discrete(x)
    assert (outputs - expected).abs().max() <= 1e-6 * expected.abs().max(), name
    print(name)
"""


def test_loads_and_runs_where_this_package_is_missing(tmp_path):
    whole = {}
    for (network, fuse_bn), name in zip(CASES, IDS, strict=True):
        x, integral, discrete = case(network, fuse_bn)
        whole[name] = (discrete, x, integral(x))
    torch.save(whole, tmp_path / "models.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(Path(networks.__file__).parent), str(tmp_path / "models.pt")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == IDS


# --------------------------------------------------------------------------------------------------------- other tools


@pytest.mark.parametrize(("network", "fuse_bn"), FEW[:2])
@pytest.mark.parametrize("which", ["discrete", "integral"])
def test_exports(network, fuse_bn, which):
    x, integral, discrete = case(network, fuse_bn)
    expected = discrete(x)
    program = torch.export.export(discrete if which == "discrete" else integral, (x,))
    assert relative_difference(program.module()(x), expected) < 1e-6
    if which == "discrete":
        assert not any("integralrob" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize(("network", "fuse_bn"), FEW)
def test_compiles_to_one_graph(network, fuse_bn):
    x, _, discrete = case(network, fuse_bn)
    compiled = torch.compile(discrete, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert relative_difference(compiled(x), discrete(x)) < 1e-6


@pytest.mark.parametrize(("network", "fuse_bn"), FEW[:1])
def test_converts_to_onnx(network, fuse_bn):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    x, _, discrete = case(network, fuse_bn)
    program = torch.onnx.export(discrete, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert relative_difference(torch.from_numpy(outputs), discrete(x)) < 1e-5
    assert {node.domain for node in program.model_proto.graph.node} <= {"", "ai.onnx", "pkg.onnxscript.torch_lib"}


def test_torchs_transformer_layers_get_their_fused_kernel_back():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    model = nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)).eval()
    integral = convert(model, torch.randn(2, 5, 6), progress=False)
    integral.resize(0.5)
    for network, expected in ((model, 2), (integral.module, 0), (integral.discretize(), 2), (integral.module, 0)):
        assert [layer.activation_relu_or_gelu for layer in network[1].layers] == [expected] * 2
    assert vars(integral.discretize()[1].layers[0]).keys() == vars(model[1].layers[0]).keys()
