"""Trainable perturbations of data, and solvers for them.

Names, arguments and behaviour are those of ``rai_toolbox.perturbations`` 0.2.1, so that a program changes only its
import; what differs, and why, is listed in docs/perturbations.md.
"""

from .init import uniform_like_l1_n_ball_, uniform_like_l2_n_ball_, uniform_like_linf_n_ball_
from .models import AdditivePerturbation, PerturbationModel
from .solvers import gradient_ascent, random_restart

__all__ = [
    "AdditivePerturbation",
    "PerturbationModel",
    "gradient_ascent",
    "random_restart",
    "uniform_like_l1_n_ball_",
    "uniform_like_l2_n_ball_",
    "uniform_like_linf_n_ball_",
]
