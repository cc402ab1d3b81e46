"""Integral layers, and the continuous weight that they are made of."""

from .axes import Sampling
from .continuous_weight import ContinuousWeight
from .layers import IntegralConv1d, IntegralConv2d, IntegralConv3d, IntegralLayer, IntegralLinear

__all__ = [
    "ContinuousWeight",
    "IntegralConv1d",
    "IntegralConv2d",
    "IntegralConv3d",
    "IntegralLayer",
    "IntegralLinear",
    "Sampling",
]
