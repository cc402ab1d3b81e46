"""integralrob: integral neural networks and adversarial robustness, on fused kernels."""

from . import attacks, integration, nn, ops, optim, partition, perturbations, quadrature, training
from .build_info import build_info
from .conversion import IntegralModel, convert

__all__ = [
    "IntegralModel",
    "__version__",
    "attacks",
    "build_info",
    "convert",
    "integration",
    "nn",
    "ops",
    "optim",
    "partition",
    "perturbations",
    "quadrature",
    "training",
]

__version__ = "0.1.0"
