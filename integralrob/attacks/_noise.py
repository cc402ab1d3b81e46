"""Random numbers of a sample that do not depend on what else is in its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._rows import Rows

# Unsigned 64-bit constants as the signed ones that torch's int64 holds: its products wrap around, as they should.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


# So many numbers stay in a CPU's cache while one operation after another runs over them.
_BLOCK = 2**16


def _shifted(bits: Tensor, count: int) -> Tensor:
    """A logical shift to the right: torch's copies the sign."""
    return (bits >> count).bitwise_and_(2 ** (64 - count) - 1)


def _mix_(bits: Tensor) -> Tensor:
    bits ^= _shifted(bits, 30)
    bits *= _FIRST
    bits ^= _shifted(bits, 27)
    bits *= _SECOND
    bits ^= _shifted(bits, 31)
    return bits


@dataclass(frozen=True)
class Noise(Rows):
    """A stream of random numbers for each sample, a function of a seed and of the sample's index alone.

    Number j of a sample's stream is a hash of its key and j, SplitMix64: elementwise integer arithmetic, the same on
    every device and for every split of the samples into batches. Nothing is kept between draws: whoever wants other
    numbers takes another `stream`.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Attributes:
        keys: int64 ``[B]``.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: Tensor, index: Tensor) -> Noise:
        """The streams of the samples ``index [B]``, for an int64 `seed` of no dimensions."""
        return cls(_mix_(_mix_(seed.clone()) + _GOLDEN * index))

    def stream(self, *numbers: int) -> Noise:
        """Streams that have nothing to do with these, nor with those of other numbers."""
        keys = self.keys
        for number in numbers:
            keys = _mix_(keys ^ (_GOLDEN * (number + 1) % 2**63))
        return Noise(keys)

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, *shape]`` of float32 or float64, uniform in the open interval from 0 to 1."""
        count = torch.Size(shape).numel()
        out = torch.empty(len(self.keys), count, dtype=dtype, device=self.keys.device)
        places = _GOLDEN * torch.arange(1, count + 1, device=out.device)
        digits = 52 if dtype == torch.float64 else 23  # one less than the mantissa has: 1 - 2^-24 is still below 1
        block = _BLOCK if out.device.type == "cpu" else max(out.numel(), 1)
        height = max(block // max(count, 1), 1)
        for keys, rows in zip(self.keys.split(height), out.split(height), strict=True):
            for some, part in zip(places.split(block), rows.split(block, dim=1), strict=True):
                bits = _mix_(keys[:, None] + some)
                part.copy_(_shifted(bits, 64 - digits)).add_(0.5).mul_(2.0**-digits)
        return out.reshape(len(out), *shape)

    def sign(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, *shape]`` of -1 and 1."""
        return self.uniform(shape).sub_(0.5).sign_().to(dtype)  # never 0

    def exponential(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, *shape]``, exponential with mean 1."""
        return self.uniform(shape, dtype).log_().neg_()

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, *shape]``, normal with variance 1."""
        return self.uniform(shape, dtype).mul_(2).sub_(1).erfinv_().mul_(2**0.5)
