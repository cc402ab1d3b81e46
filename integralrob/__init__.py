"""integralrob: integral neural networks and adversarial robustness, on fused kernels."""

from . import attacks, nn, ops, partition, quadrature, training
from .build_info import build_info
from .conversion import IntegralModel, convert

__all__ = [
    "IntegralModel",
    "__version__",
    "attacks",
    "build_info",
    "convert",
    "nn",
    "ops",
    "partition",
    "quadrature",
    "training",
]

__version__ = "0.1.0"
