"""Adversarial attacks: the worst case of a loss over a ball of perturbations."""

from .pgd import pgd
from .result import AttackResult

__all__ = ["AttackResult", "pgd"]
