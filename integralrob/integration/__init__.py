"""Integrals over perturbations: means over a ball or another distribution, and randomised smoothing."""

from .expectation import Estimate, expectation
from .samplers import CubeSampler, Gaussian, UniformBall
from .smoothing import ABSTAIN, Certificate, smoothed_certify, smoothed_predict

__all__ = [
    "ABSTAIN",
    "Certificate",
    "CubeSampler",
    "Estimate",
    "Gaussian",
    "UniformBall",
    "expectation",
    "smoothed_certify",
    "smoothed_predict",
]
