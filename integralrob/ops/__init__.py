"""The operators: sampling of control values through bands, projections onto perturbation balls, fused attack steps."""

from . import reference
from ._library import native_problems
from .bands import cubic_band
from .projection import project_l1, project_l2, project_linf
from .sampling import sample_1d, sample_1d_adjoint, sample_2d, sample_2d_adjoint, sample_weight, sample_with_bands
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
    "project_l2",
    "project_linf",
    "reference",
    "sample_1d",
    "sample_1d_adjoint",
    "sample_2d",
    "sample_2d_adjoint",
    "sample_weight",
    "sample_with_bands",
]

# The schemas exist by now: native kernels can be put in the place of the references.
native_problems()
