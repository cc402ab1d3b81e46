"""Integral layers, and the continuous weight that they are made of."""

from .continuous_weight import ContinuousWeight, Sampling
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
