"""From a discrete network to an integral one: channel groups, ordering, batch-norm fusion, and the result."""

from .algorithm import convert
from .graph import ReportEntry
from .model import Group, IntegralModel
from .tensors import Member

__all__ = ["Group", "IntegralModel", "Member", "ReportEntry", "convert"]
