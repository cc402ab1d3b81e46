"""The two discrete networks of the demonstration: ordinary PyTorch, which knows nothing of integral layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

__all__ = ["DigitsNet", "SuperResolutionNet", "seeded"]

Network = TypeVar("Network", bound=nn.Module)


def seeded(make: Callable[[], Network], seed: int) -> Network:
    """A network with the initial values that belong to a seed; torch's random state stays as it was.

    >>> torch.equal(seeded(DigitsNet, 3).conv2.weight, seeded(DigitsNet, 3).conv2.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


class DigitsNet(nn.Module):
    """A classifier of 8×8 images: three convolutions with batch norm, and a linear layer.

    >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 1, 8, 8]`` -> logits ``[B, classes]``."""
        x = max_pool2d(relu(self.norm1(self.conv1(x))), 2)
        x = relu(self.norm2(self.conv2(x)))
        x = relu(self.norm3(self.conv3(x)))
        return self.classify(x.mean((2, 3)))


class SuperResolutionNet(nn.Module):
    """Sharpens an image that was enlarged by interpolation: SRCNN 9-1-5, which here adds to its input what is missing.

    Sources: C. Dong et al., "Image super-resolution using deep convolutional networks", arXiv 1501.00092; the skip
    connection: J. Kim et al., "Accurate image super-resolution using very deep convolutional networks", CVPR 2016.

    >>> SuperResolutionNet()(torch.zeros(2, 1, 12, 16)).shape
    torch.Size([2, 1, 12, 16])
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        mapped = features // 2
        self.extract = nn.Conv2d(1, features, 9, padding=4)
        self.map = nn.Conv2d(features, mapped, 1)
        self.reconstruct = nn.Conv2d(mapped, 1, 5, padding=2)
        # The network starts as the identity: what interpolation gives.
        for parameter in self.reconstruct.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 1, H, W]`` -> images of the same shape."""
        return x + self.reconstruct(relu(self.map(relu(self.extract(x)))))
