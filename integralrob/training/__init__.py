"""Training helpers."""

from .adversarial import adversarial_loss, trades_loss

__all__ = ["adversarial_loss", "trades_loss"]
