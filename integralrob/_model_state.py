"""A model in evaluation mode that asks for no gradients, and back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def frozen(model: Callable[..., Any]) -> Iterator[None]:
    """Inside the context every submodule is in eval mode and no parameter asks for a gradient.

    On leaving, also by an exception, each flag is what it was: a batch norm that was frozen inside a training model
    stays so. The flags are set directly, because `train()` would overwrite the submodules' own and may be overridden.
    What has no such flag, or one that cannot be set, is left alone: a callable that is not an `nn.Module`, modules
    after `torch.jit.freeze`, parameters made in inference mode.
    """
    modules = [m for m in model.modules() if hasattr(m, "training")] if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    trainable = [p for p in parameters if p.requires_grad and not p.is_inference()]
    try:
        for module in modules:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
        for parameter in trainable:
            parameter.requires_grad_(True)
