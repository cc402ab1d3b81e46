"""Adversarial attacks: the worst case of a loss over a ball of perturbations."""

from .apgd import apgd
from .fgsm import fgsm
from .pgd import pgd
from .result import AttackResult

__all__ = ["AttackResult", "apgd", "fgsm", "pgd"]
