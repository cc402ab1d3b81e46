"""Slow, readable, pure-torch versions of the ops, under the same names: what every kernel is checked against."""

from .projection import (
    linf_step,
    linf_step_,
    project_l1,
    project_l1_backward,
    project_l2,
    project_l2_backward,
    project_linf,
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

__all__ = [
    "cubic_band",
    "linf_step",
    "linf_step_",
    "project_l1",
    "project_l1_backward",
    "project_l2",
    "project_l2_backward",
    "project_linf",
    "sample_1d",
    "sample_1d_adjoint",
    "sample_1d_weight_grad",
    "sample_2d",
    "sample_2d_adjoint",
    "sample_2d_weight0_grad",
    "sample_2d_weight1_grad",
    "sample_weight",
]
