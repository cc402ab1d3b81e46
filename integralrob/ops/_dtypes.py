"""The types that the ops compute in."""

from __future__ import annotations

import torch


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every narrower type: what sums, and band weights, are held in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
