"""Small networks, written by hand, that the tests convert."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from integralrob.conversion import IntegralModel, convert


class MLP(nn.Sequential):
    example_shape = (5, 12)

    def __init__(self):
        super().__init__(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))


class PlainCNN(nn.Module):
    """Convolutions, pooling, and a linear layer behind a flattening of 3×3 positions a channel."""

    example_shape = (2, 1, 12, 12)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12 * 9, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResidualNet(nn.Module):
    example_shape = (2, 3, 16, 16)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1), Block(8, 12, 2))
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class SRCNN(nn.Sequential):
    example_shape = (1, 1, 14, 14)

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 9, padding=4),
            nn.ReLU(),
            nn.Conv2d(16, 8, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 1, 5, padding=2),
        )


def seeded(network: type[nn.Module], seed: int = 0, **kwargs: object) -> nn.Module:
    """An instance with reproducible weights, and batch norms that have seen something, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(**kwargs)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.normal_(module.weight, 1, 0.3)
                    nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def example(network: type[nn.Module], seed: int = 1) -> Tensor:
    return torch.randn(network.example_shape, generator=torch.Generator().manual_seed(seed))


def converted(network: type[nn.Module], **arguments: object) -> tuple[nn.Module, Tensor, IntegralModel]:
    model, x = seeded(network), example(network)
    return model, x, convert(model, x, progress=False, **arguments)


class Awkward(nn.Module):
    """A stem, something in the middle that only `trunk` knows, and a head whose hidden channels always convert."""

    example_shape = (2, 3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(F.relu(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).mean((2, 3)))


class Depthwise(Awkward):
    def __init__(self):
        super().__init__()
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))


class GroupNormed(Awkward):
    def __init__(self):
        super().__init__()
        self.middle = nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1))


class Transposed(Awkward):
    def __init__(self):
        super().__init__()
        self.middle = nn.ConvTranspose2d(8, 8, 3)


class Concatenated(Awkward):
    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(12, 8, 3, padding=1)

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(torch.cat([self.stem(x), self.branch(x)], 1)))


class Split(Awkward):
    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(4, 8, 3, padding=1)

    def trunk(self, x: Tensor) -> Tensor:
        gate, value = self.stem(x).chunk(2, 1)
        return F.relu(self.middle(gate.sigmoid() * value))


class Recurrent(Awkward):
    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return F.relu(self.middle(F.relu(self.middle(x))))


class Tied(Awkward):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.middle.weight

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.other(F.relu(self.middle(self.stem(x)))))


class Scaled(Awkward):
    """A free parameter a channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 8).view(1, 8, 1, 1))

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(self.scale * self.stem(x)))


class Masked(Awkward):
    """A constant a channel, which autograd does not see."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.linspace(0.5, 2, 8).view(1, 8, 1, 1))

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(self.mask * self.stem(x)))


class Constant(Awkward):
    """A constant that is the same for all channels, but has as many entries."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.ones(1, 8, 1, 1))

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(self.offset + self.stem(x)))


class Summed(Awkward):
    """A gate that is a sum over the channels: it would grow with their number."""

    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return F.relu(self.middle(x * x.sum(1, keepdim=True)))


class Softmaxed(Awkward):
    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(self.stem(x).softmax(1)))


class Strided(Awkward):
    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(4, 8, 3, padding=1)

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(self.stem(x)[:, ::2]))


class Padded(Awkward):
    """Empty channels, as a shortcut without weights adds them."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(12, 8, 3, padding=1)

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(F.pad(self.stem(x), (0, 0, 0, 0, 2, 2))))


class Shuffled(Awkward):
    """Channels that a view takes apart, for any number of them that is even."""

    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        return F.relu(self.middle(x))


class JoinsInput(nn.Module):
    """The input itself is added to the channels of `up`, which therefore have its size."""

    example_shape = (4, 12)

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(12, 16)
        self.up = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(2 * x + self.up(F.relu(self.down(x))))


class TwoOutputs(Awkward):
    """Returns its features too."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x).mean((2, 3))
        return {"logits": self.head(features), "features": features}


class PreActivation(Awkward):
    """A batch norm before its convolution, behind a sum: there is no layer to fuse it into."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.middle(F.relu(self.norm(x)))


class Flattened1d(nn.Sequential):
    example_shape = (2, 3, 10)

    def __init__(self):
        super().__init__(
            nn.Conv1d(3, 6, 3),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 7),
            nn.BatchNorm1d(7),
            nn.ReLU(),
            nn.Linear(7, 2),
        )


class Flattened3d(nn.Sequential):
    example_shape = (2, 2, 4, 4, 4)

    def __init__(self):
        super().__init__(nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 7), nn.ReLU(), nn.Linear(7, 2))


class Noisy(MLP):
    """Draws random numbers in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(())


class Unseen(Awkward):
    """Layers that autograd does not see: one is not called, one only chooses, and one gives its weight away."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(8, 8)
        self.choice = nn.Linear(8, 3)
        self.functional = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.conv2d(self.trunk(x), self.functional.weight).mean((2, 3))
        return self.head(features), self.choice(features).argmax(1)


class Attentive(nn.Module):
    """Attention calls none of its own layers."""

    example_shape = (2, 5, 6)

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


NETWORKS = [MLP, PlainCNN, ResidualNet, SRCNN, Flattened1d, Flattened3d]
