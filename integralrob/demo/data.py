"""Real images that ship with scikit-learn: handwritten digits, and two photographs for super-resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["Split", "digit_images", "photo_patches"]


@dataclass(frozen=True)
class Split:
    """Inputs and targets, `N` to train on and `K` to test on. Which is which depends on nothing but the data.

    Attributes:
        train_x, test_x: ``[N, 1, H, W]`` and ``[K, 1, H', W']``, float32 in [0, 1].
        train_y, test_y: classes ``[N]``, ``[K]``, int64; or images of the same shapes as the inputs.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def to(self, device: torch.device) -> Split:
        """The same data on a device."""
        return Split(*(tensor.to(device) for tensor in (self.train_x, self.train_y, self.test_x, self.test_y)))


def digit_images() -> Split:
    """The 1797 digits of 8×8 pixels, a quarter of each class for testing: 1347 and 450 images.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train_x, test_x = (torch.from_numpy(x).float().view(-1, 1, 8, 8) for x in parts[:2])
    train_y, test_y = (torch.from_numpy(y) for y in parts[2:])
    return Split(train_x, train_y, test_x, test_y)


def photo_patches(factor: int = 2, patch: int = 30) -> Split:
    """Luminance of the two sample photographs: the outer thirds in patches to train on, the middle third to test on.

    The inputs are the images reduced by `factor`, stored with 8 bits, and enlarged again by bicubic interpolation, as
    for SRCNN. Train ``[N, 1, patch, patch]``, test ``[2, 1, H, W]``; `patch` is a multiple of `factor`.
    """
    from sklearn.datasets import load_sample_images

    rgb = torch.stack([torch.from_numpy(photo.copy()) for photo in load_sample_images().images]).float() / 255
    luminance = (rgb @ torch.tensor([0.299, 0.587, 0.114])).unsqueeze(1)
    rows, third = luminance.shape[2] // patch * patch, luminance.shape[3] // 3 // patch * patch
    left, middle, right = luminance[:, :, :rows].tensor_split((third, -third), dim=3)
    middle = middle[..., : middle.shape[3] // factor * factor]
    train = torch.cat([side.unfold(2, patch, patch).unfold(3, patch, patch) for side in (left, right)], dim=3)
    train = train.reshape(-1, 1, patch, patch)
    return Split(_enlarged(train, factor), train, _enlarged(middle, factor), middle)


def _enlarged(sharp: Tensor, factor: int) -> Tensor:
    """An image after reduction by `factor`, rounding to 8 bits, and bicubic enlargement: the baseline."""
    height, width = sharp.shape[-2:]
    low = interpolate(sharp, (height // factor, width // factor), mode="bicubic", antialias=True).clamp(0, 1)
    # With antialiasing the cubic kernel's parameter is -0.5, as everywhere outside PyTorch, instead of -0.75.
    return interpolate((low * 255).round() / 255, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
