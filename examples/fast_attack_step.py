"""Write your own attack on the fused steps: projected gradient descent with a radius per sample, in ten lines.

python examples/fast_attack_step.py
"""

import torch
from torch import nn

import integralrob as ir


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    x, y = torch.rand(16, 3, 32, 32), torch.randint(10, (16,))
    eps = torch.linspace(0, 8 / 255, 16)  # one radius per sample

    x_adv = x.clone()
    for _ in range(20):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        # Sign step, ball around x, box: one pass over memory.
        x_adv = ir.ops.linf_step(x_adv, grad, x, eps, step_size=eps / 8, bounds=(0, 1))
    print(
        "largest change of each sample, in 1/255:", ((x_adv - x).abs().flatten(1).amax(1) * 255).round().int().tolist()
    )

    # The same, with best-so-far, restarts and all checks.
    result = ir.attacks.pgd(model, x, y, eps=8 / 255, steps=20, generator=torch.Generator().manual_seed(0))
    print(f"misclassified: {result.success.float().mean():.0%}, mean loss {result.loss.mean():.2f}")


if __name__ == "__main__":
    main()
