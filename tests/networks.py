"""Small versions of well-known architectures, written by hand: what makes each of them hard to convert is there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, width, 1), nn.ReLU(), *conv_bn(width, width, 3, stride, groups), nn.ReLU(),
            *conv_bn(width, outputs, 1),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Sequential):
    example_shape = (2, 3, 16, 16)
    groups = 1

    def __init__(self):
        super().__init__(
            *conv_bn(3, 8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            Bottleneck(8, 8, 16, 1, self.groups), Bottleneck(16, 8, 16, 1, self.groups),
            Bottleneck(16, 12, 24, 2, self.groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
        )  # fmt: skip


class ResNeXt(ResNet50):
    """Grouped convolutions."""

    groups = 4


class VGG16(nn.Sequential):
    """Linear layers behind a flattening."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 32), nn.ReLU(),
            nn.Dropout(), nn.Linear(32, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10),
        )  # fmt: skip


class DenseUnit(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class DenseNet40(nn.Sequential):
    """Each layer reads the concatenation of all before it, through a batch norm."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), DenseUnit(8, 6), DenseUnit(14, 6),
            nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 12, 1), nn.AvgPool2d(2), DenseUnit(12, 6), DenseUnit(18, 6),
            nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
        )  # fmt: skip


class NIN(nn.Sequential):
    """The classes are channels of a convolution."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 10, 1), nn.ReLU(), nn.Conv2d(10, 8, 1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Dropout(), nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        )  # fmt: skip


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *conv_bn(inputs, width, 1), nn.ReLU6(), *conv_bn(width, width, 3, stride, groups=width), nn.ReLU6(),
            *conv_bn(width, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Sequential):
    """Depthwise convolutions."""

    example_shape = (2, 3, 16, 16)

    def __init__(self):
        super().__init__(
            *conv_bn(3, 8, stride=2), nn.ReLU6(), InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 12, 2, 3),
            InvertedResidual(12, 12, 1, 2), *conv_bn(12, 32, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip


class UNet(nn.Module):
    """Transposed convolutions, and concatenations with what was before."""

    example_shape = (2, 3, 16, 16)

    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(*conv_bn(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), *conv_bn(8, 12), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), *conv_bn(12, 16), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.merge2 = nn.Sequential(*conv_bn(24, 12), nn.ReLU())
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.merge1 = nn.Sequential(*conv_bn(19, 8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(first)
        y = self.merge2(torch.cat([self.up2(self.bottom(second)), second], 1))
        return self.head(self.merge1(torch.cat([self.up1(y), first, x], 1)))


class EDSR(nn.Module):
    """Residual blocks with a scale, a long skip, and channels that become pixels."""

    example_shape = (1, 3, 6, 6)

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)) for _ in range(2)
        )
        self.up = nn.Sequential(nn.Conv2d(12, 10 * 4, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(10, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.head(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        return self.tail(self.up(x + y))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Encoder(nn.Module):
    """A transformer block, with its norms before or behind its two branches."""

    def __init__(self, width: int, heads: int, norm_first: bool):
        super().__init__()
        self.norm_first = norm_first
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class ViT(nn.Module):
    """Patches and a class token, and positions that are parameters."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 5, 16))
        self.encoders = nn.Sequential(Encoder(16, 4, norm_first=True), Encoder(16, 4, norm_first=True))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.encoders(x))[:, 0])


class BERT(nn.Module):
    """Embeddings of words and of places."""

    example_shape = (2, 7)

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 16, padding_idx=0)
        self.places = nn.Embedding(12, 16)
        self.norm = nn.LayerNorm(16)
        self.encoders = nn.Sequential(Encoder(16, 2, norm_first=False), Encoder(16, 2, norm_first=False))
        self.pooler = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, words: Tensor) -> Tensor:
        words = words.abs().mul(9).long().clamp(max=29)
        x = self.words(words) + self.places(torch.arange(words.shape[1], device=words.device))
        x = self.encoders(self.norm(x))
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


class SqueezeNet(nn.Sequential):
    """Sums of concatenations, and a concatenation that is flattened."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), Fire(12, 6, 8), Residual(Fire(16, 6, 8)), nn.MaxPool2d(4),
            nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class GatedConv(nn.Module):
    """Gated linear units of both kinds, weight norms of all kinds, PReLU, and a squeeze-and-excitation."""

    example_shape = (2, 3, 12)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(3, 16, 3, padding=1), nn.GLU(1), nn.GroupNorm(2, 8), nn.PReLU(8))
        self.second = nn.Sequential(nn.Conv1d(8, 24, 3, padding=1), nn.InstanceNorm1d(24, affine=True))
        self.squeeze = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 12), nn.Sigmoid())
        self.third = nn.Sequential(nn.Conv1d(12, 8, 1), nn.InstanceNorm1d(8), nn.PReLU(), nn.GroupNorm(1, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.second(self.first(x)).chunk(2, 1)
        x = gate.sigmoid() * value
        x = x * self.squeeze(x.mean(2)).unsqueeze(2)
        return self.head(self.third(x).amax(2))


class ShuffleNet(nn.Module):
    """Channels that are dealt out anew, which no order of them survives; those behind do not know."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 8), nn.ReLU())
        self.branch = nn.Sequential(*conv_bn(4, 6, 1), nn.ReLU(), *conv_bn(6, 4, 1), nn.ReLU())
        self.last = nn.Sequential(*conv_bn(8, 16, 1), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(self.last(x).mean((2, 3)))


class Fusion(nn.Module):
    """A flattened image beside a vector: channels in blocks of 4, in single entries, and an input."""

    example_shape = (2, 3, 4, 4)

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 1, groups=8))
        self.vector = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(8 * 4 + 6 + 3, affine=False)
        self.hidden = nn.Linear(8 * 4 + 6 + 3, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        colour = x.mean((2, 3))
        x = torch.cat([F.max_pool2d(self.image(x), 2).flatten(1), self.vector(colour).relu(), colour], 1)
        return self.head(self.hidden(self.norm(x)).relu())
