"""Adversarial attacks: the worst case of a loss over a ball of perturbations."""

from .apgd import apgd
from .evaluate import Evaluation, evaluate
from .fgsm import fgsm
from .pgd import pgd
from .result import AttackResult
from .square import square

__all__ = ["AttackResult", "Evaluation", "apgd", "evaluate", "fgsm", "pgd", "square"]
