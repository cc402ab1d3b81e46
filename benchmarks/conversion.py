"""How long well-known networks take to convert, and what of them becomes continuous.

python -m benchmarks.conversion --networks resnet18 resnet50

Needs pytorchcv, which has the networks; their weights are random, with batch norms that have seen something. Prints a
Markdown table. Seconds are of the whole of `integralrob.convert`, on the wall and of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from typing import cast

import torch
from torch import nn

import integralrob as ir
from integralrob.conversion.check import relative_difference

# Name -> pytorchcv's module, and the side of the images.
NETWORKS = {
    "resnet18": ("resnet", 224),
    "resnet20_cifar10": ("resnet_cifar", 32),
    "resnet50": ("resnet", 224),
    "resnext20_16x4d_cifar10": ("resnext_cifar", 32),
    "seresnet50": ("seresnet", 224),
    "vgg16": ("vgg", 224),
    "densenet40_k12_cifar10": ("densenet_cifar", 32),
    "densenet121": ("densenet", 224),
    "nin_cifar10": ("nin_cifar", 32),
    "squeezenet_v1_1": ("squeezenet", 224),
    "mobilenetv2_w1": ("mobilenetv2", 224),
    "mobilenetv3_large_w1": ("mobilenetv3", 224),
    "shufflenetv2_w1": ("shufflenetv2", 224),
    "efficientnet_b0": ("efficientnet", 224),
    "inceptionv3": ("inceptionv3", 299),
    "xception": ("xception", 299),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with random weights, in evaluation mode, and an image."""
    module, side = NETWORKS[name]
    torch.manual_seed(0)
    model = cast("Callable[[], nn.Module]", getattr(import_module(f"pytorchcv.models.{module}"), name))().eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            norm.running_mean.normal_(0, 0.1)
            cast("torch.Tensor", norm.running_var).uniform_(0.5, 2)
    return model, torch.randn(1, 3, side, side)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _row(name: str, order: str | None, fuse_bn: bool) -> str:
    model, x = network(name)
    wall, cpu = time.perf_counter(), time.process_time()
    integral = ir.convert(model, x, order=order, fuse_bn=fuse_bn, progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    difference = relative_difference(integral(x), model(x))
    integral.resize(0.5)
    half = _parameters(integral.discretize()) / _parameters(model)
    discrete = len(integral.report)
    return f"| {name} | {len(integral.groups)} | {discrete} | {difference:.0e} | {half:.2f} | {wall:.1f} | {cpu:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], metavar="NAME")
    parser.add_argument("--no-order", action="store_true", help="keep the order of the channels")
    parser.add_argument("--keep-norms", action="store_true", help="do not fuse batch norms")
    arguments = parser.parse_args()
    print("| network | continuous groups | discrete | difference at full size | weights at half size | s | s of CPU |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        print(_row(name, None if arguments.no_order else "shortest_path", not arguments.keep_norms), flush=True)


if __name__ == "__main__":
    main()
