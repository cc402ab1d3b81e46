"""integralrob: integral neural networks and adversarial robustness, on fused kernels."""

from . import ops, partition, quadrature

__all__ = ["__version__", "ops", "partition", "quadrature"]

__version__ = "0.1.0"
