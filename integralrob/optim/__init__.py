"""Optimizers that transform gradients before a step and parameters after it: for perturbations in a ball.

Names, arguments and behaviour are those of ``rai_toolbox.optim`` 0.2.1, so that a program changes only its import; what
differs, and why, is listed in docs/perturbations.md.
"""

from .frank_wolfe import FrankWolfe, L1FrankWolfe, L1qFrankWolfe, L2FrankWolfe, LinfFrankWolfe
from .gradients import (
    ClampedGradientOptimizer,
    L1NormedGradientOptim,
    L1qNormedGradientOptim,
    L2NormedGradientOptim,
    SignedGradientOptim,
    TopQGradientOptimizer,
)
from .projected import ClampedParameterOptimizer, L1ProjectedOptim, L2ProjectedOptim, LinfProjectedOptim
from .transforming import ChainedParamTransformingOptimizer, ParamTransformingOptimizer

__all__ = [
    "ChainedParamTransformingOptimizer",
    "ClampedGradientOptimizer",
    "ClampedParameterOptimizer",
    "FrankWolfe",
    "L1FrankWolfe",
    "L1NormedGradientOptim",
    "L1ProjectedOptim",
    "L1qFrankWolfe",
    "L1qNormedGradientOptim",
    "L2FrankWolfe",
    "L2NormedGradientOptim",
    "L2ProjectedOptim",
    "LinfFrankWolfe",
    "LinfProjectedOptim",
    "ParamTransformingOptimizer",
    "SignedGradientOptim",
    "TopQGradientOptimizer",
]
