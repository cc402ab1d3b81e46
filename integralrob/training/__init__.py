"""Training of integral networks: over many sizes at once, and what a size needs afterwards."""

from .recalibration import recalibrate_batch_norms_
from .sandwich import sandwich_step, soft_cross_entropy

__all__ = ["recalibrate_batch_norms_", "sandwich_step", "soft_cross_entropy"]
