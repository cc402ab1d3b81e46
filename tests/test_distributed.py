"""Training over random sizes on two processes: both draw the same sizes, and end with the same network."""

from pathlib import Path

import models
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from models import seeded
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from integralrob.conversion import IntegralModel, convert
from integralrob.training import sandwich_step, soft_cross_entropy

STEPS = 3


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0))
    return x, x[:, :4].argmax(1)


def _network() -> IntegralModel:
    torch.manual_seed(0)
    return convert(seeded(models.MLP), _data()[0][:1], progress=False)


def _train(model: torch.nn.Module, integral: IntegralModel, x: torch.Tensor, y: torch.Tensor) -> list[dict[str, int]]:
    sizes = []
    hook = integral.module.register_forward_hook(lambda *_: sizes.append(integral.sizes))
    optimizer = torch.optim.SGD(integral.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        sandwich_step(model, x, y, F.cross_entropy, distil=soft_cross_entropy, multiple_of=1)
        optimizer.step()
    hook.remove()
    return sizes


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        integral = _network()
        torch.manual_seed(100 + rank)  # as for augmentation: of no influence
        model = DistributedDataParallel(integral)
        reductions: list[int] = []

        def reduce(group: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            reductions.append(bucket.index())
            return allreduce_hook(group, bucket)

        model.register_comm_hook(None, reduce)
        x, y = (tensor.chunk(2)[rank] for tensor in _data())
        sizes = _train(model, integral, x, y)
        assert len(reductions) == STEPS  # though a step has four backward passes
        torch.save({"sizes": sizes, "state": integral.state_dict()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    mp.spawn(_work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    integral = _network()
    sizes = _train(integral, integral, *_data())
    assert len(sizes) == 4 * STEPS
    assert first["sizes"] == second["sizes"] == sizes
    assert len({str(drawn) for drawn in sizes}) > 3
    for name, value in integral.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(first["state"][name], second["state"][name]), name
            torch.testing.assert_close(first["state"][name], value, rtol=1e-4, atol=1e-5)
    # The next draw, after a checkpoint.
    expected = integral.random_sizes(0.25, 1.0, 1)
    resumed = _network()
    resumed.load_state_dict(first["state"])
    assert resumed.random_sizes(0.25, 1.0, 1) == expected
