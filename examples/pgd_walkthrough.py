"""Adversarial examples from the beginning: one image, a loss, a gradient, and a step up.

The story of Z. Kolter and A. Madry, "Adversarial robustness: theory and practice", chapter 1, told with a handwritten
digit instead of a pig: a trained network is sure of an image; 30 steps of projected gradient ascent on its loss make it
see something else; 100 more make it see what we choose; and rounding to the 256 levels of an image file changes none of
that. Writes the pictures; takes half a minute.

pip install 'integralrob[demo]'; python examples/pgd_walkthrough.py
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import integralrob as ir
from integralrob.demo.data import digit_images
from integralrob.demo.networks import DigitsNet, seeded
from integralrob.demo.training import Schedule, train

LEVELS = 255
EPS = 24 / LEVELS
INDEX, TARGET = 74, 8  # a test image of a 3, and what it is to become


def main(folder: Path, epochs: int = 15) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    # The model h: images [B, 1, 8, 8] -> logits [B, 10].
    data = digit_images()
    model = seeded(DigitsNet, 0)
    schedule = Schedule(epochs=epochs, learning_rate=3e-3)
    train(model, data, cross_entropy, schedule, torch.Generator().manual_seed(0), title="training")

    # An image as a file holds it: multiples of 1/255. Its loss is -log of the probability of its class.
    x, y = (data.test_x[INDEX : INDEX + 1] * LEVELS).round() / LEVELS, data.test_y[INDEX : INDEX + 1]
    loss = cross_entropy(model(x), y)
    print(
        f"\nThe image of a {y.item()}: loss {loss:.4f}, so the model gives its class exp(-loss) = {(-loss).exp():.4f}."
    )

    # max ℓ(h(x + δ), y) over ‖δ‖∞ ≤ ε, from δ = 0.
    print(f"\nUntargeted, ε = {EPS * LEVELS:.0f}/255:")
    untargeted = ir.attacks.pgd(model, x, y, eps=EPS, steps=30, random_start=False)
    for step, value in enumerate(untargeted.trace[0, :, 0].tolist()):
        if step % 5 == 0:
            print(f"{step:4} loss {value:8.4f}")
    print(describe(model, untargeted.adversarial, y))

    # max ℓ(h(x + δ), y) - ℓ(h(x + δ), target): the losses' log-sums cancel, and a difference of logits is left.
    print(f"\nTargeted at {TARGET}:")
    targeted = ir.attacks.pgd(
        model,
        x,
        torch.tensor([TARGET]),
        targeted=True,
        loss=lambda logits, target: logits.gather(1, y[:, None])[:, 0] - logits.gather(1, target[:, None])[:, 0],
        eps=EPS,
        steps=100,
        random_start=False,
    )
    for step, value in enumerate(targeted.trace[0, :, 0].tolist()):
        if step % 10 == 0:
            print(f"{step:4} h(x + δ)_{y.item()} - h(x + δ)_{TARGET} = {value:8.4f}")
    print(describe(model, targeted.adversarial, y))

    # ε is a multiple of 1/255 as x is, so that rounding to multiples of 1/255 cannot leave the ball.
    print("\nAs files of 8 bits a pixel:")
    images = {"image": x, "untargeted": untargeted.adversarial, "targeted": targeted.adversarial}
    files = {name: save_and_load(folder / f"{name}.png", image) for name, image in images.items()}
    for name, image in files.items():
        levels = ((image - x) * LEVELS).abs().max()
        print(f"{name + '.png':14}  at most {levels:2.0f} of 255 levels changed. {describe(model, image, y)}")

    plot(folder / "walkthrough.png", model, files)
    print(f"\nPictures: {folder}")


@torch.no_grad()
def describe(model: nn.Module, image: Tensor, y: Tensor) -> str:
    """What the model sees, and the probability that it gives to the right class."""
    probabilities = model(image).softmax(1)[0]
    top = int(probabilities.argmax())
    return f"Seen as {top} ({probabilities[top]:.1%}); probability of {y.item()}: {probabilities[y].item():.4f}"


def save_and_load(path: Path, image: Tensor) -> Tensor:
    """The image ``[1, 1, H, W]`` after a way through a file with 8 bits a pixel."""
    Image.fromarray((image[0, 0] * LEVELS).round().byte().numpy()).save(path)
    return torch.from_numpy(np.array(Image.open(path))).view_as(image).to(image.dtype) / LEVELS


@torch.no_grad()
def plot(path: Path, model: nn.Module, images: Mapping[str, Tensor]) -> None:
    """For each attack: the image, the adversarial image, and ``50 δ + 0.5``, cut to [0, 1]."""
    x = images["image"]
    figure = Figure(figsize=(6.4, 4.9), layout="constrained")
    for axes, name in zip(figure.subplots(2, 3), ("untargeted", "targeted"), strict=True):
        panels = {"image": x, name: images[name], "50 δ + 0.5": (50 * (images[name] - x) + 0.5).clamp(0, 1)}
        for axis, (title, image) in zip(axes, panels.items(), strict=True):
            axis.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            probabilities = model(image).softmax(1)[0]
            seen = f"\n{int(probabilities.argmax())} ({probabilities.max():.0%})" if title != "50 δ + 0.5" else "\n"
            axis.set_title(title + seen, fontsize=10)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/walkthrough"))
    torch.set_num_threads(1)  # more would only wait for each other on so small a network
    main(parser.parse_args().output)
