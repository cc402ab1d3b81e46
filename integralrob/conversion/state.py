"""Whether a state fits an integral model, found before any of it is taken."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .model import IntegralModel

__all__ = ["rehearse_load"]


def rehearse_load(integral: IntegralModel, state_dict: Mapping[str, Any], strict: bool) -> None:
    """Loads a state into a copy of the model whose tensors have shapes and no values.

    Raises:
        RuntimeError, TypeError, ValueError: what torch's `load_state_dict` raises, with the groups that are concerned.
    """
    tensors = (*integral.parameters(), *integral.buffers())
    model = copy.deepcopy(integral, {id(tensor): _without_values(tensor) for tensor in tensors})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
            nn.Module.load_state_dict(model, state_dict, strict)
    except RuntimeError as error:
        names = _groups_in(str(error), integral, {*integral.state_dict(), *state_dict})
        if not names:
            raise
        raise RuntimeError(f"{error}\n\tThese are of the groups: {', '.join(map(repr, names))}.") from None


def _without_values(tensor: Tensor) -> Tensor:
    shape = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape


def _groups_in(message: str, integral: IntegralModel, keys: set[str]) -> list[str]:
    """The groups with members whose keys are in a message of torch's."""
    named = [f"{key}." for key in keys if f'"{key}"' in message or f" {key}:" in message]
    return [
        name
        for name, group in integral.groups.items()
        if any(key.startswith(f"module.{member.layer}.") for member in group.members for key in named)
    ]
