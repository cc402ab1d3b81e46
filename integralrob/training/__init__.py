"""Training: of integral networks over many sizes at once, what a size needs afterwards, and losses under attack."""

from .adversarial import adversarial_loss, trades_loss
from .recalibration import recalibrate_batch_norms_
from .sandwich import sandwich_step, soft_cross_entropy

__all__ = ["adversarial_loss", "recalibrate_batch_norms_", "sandwich_step", "soft_cross_entropy", "trades_loss"]
