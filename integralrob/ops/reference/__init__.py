"""Slow, readable, pure-torch versions of the ops, under the same names: what every kernel is checked against."""

from .projection import (
    project_l1,
    project_l1_backward,
    project_l2,
    project_l2_backward,
    project_linf,
    project_linf_backward,
)
from .sampling import (
    cubic_band,
    sample_1d,
    sample_1d_adjoint,
    sample_1d_weight_grad,
    sample_2d,
    sample_2d_adjoint,
    sample_2d_weight0_grad,
    sample_2d_weight1_grad,
    sample_weight,
)
from .steps import l1_step, l1_step_, l2_step, l2_step_, linf_step, linf_step_

__all__ = [
    "cubic_band",
    "l1_step",
    "l1_step_",
    "l2_step",
    "l2_step_",
    "linf_step",
    "linf_step_",
    "project_l1",
    "project_l1_backward",
    "project_l2",
    "project_l2_backward",
    "project_linf",
    "project_linf_backward",
    "sample_1d",
    "sample_1d_adjoint",
    "sample_1d_weight_grad",
    "sample_2d",
    "sample_2d_adjoint",
    "sample_2d_weight0_grad",
    "sample_2d_weight1_grad",
    "sample_weight",
]
