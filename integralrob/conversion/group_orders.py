"""The order of the channels of each group: several groups at a time, as the native solver leaves Python to others."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch
from torch import nn
from tqdm.auto import tqdm

from ..ops._library import users_stacklevel
from .build import slices_of
from .graph import ChannelGroup
from .native_solver import solver_module
from .ordering import STOPPED, Distance, Order, Permutation, channel_distance, search, shortest_path

__all__ = ["group_orders"]


def group_orders(
    model: nn.Module, groups: Sequence[ChannelGroup], order: Order, bar: tqdm[None]
) -> dict[str, Permutation]:
    """The order of the channels of each group, by name.

    `shortest_path` searches in as many threads as torch uses; the result does not depend on their number. Ctrl-C ends
    the search in all groups, with the best paths so far and one warning. Another `order` is called for one group after
    the other, and Ctrl-C ends the conversion.

    Memory: per thread, the matrix of distances of a group, and what `channel_distance` and `shortest_path` need.

    Args:
        model: with the batch norms fused.
        groups: of the model.
        order: from a matrix of distances to a permutation.
        bar: told of each group that is done, and meanwhile of the lengths of paths.
    """
    if order is not shortest_path or isinstance(solver_module(), str):
        return {group.name: _told(bar, group, order(_distance(model, group))) for group in groups}

    one_at_a_time = threading.Lock()  # distances use all of torch's threads anyway
    stopped = threading.Event()

    def ordered(group: ChannelGroup) -> tuple[Permutation, bool]:
        def report(_: float, length: float) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            bar.set_postfix_str(f"{group.name}: {group.full_size} channels, path {length:.4g}")

        with one_at_a_time:
            distance = _distance(model, group)
        path, interrupted = search(distance, progress=report)
        return _told(bar, group, path), interrupted

    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        searches = {group.name: pool.submit(ordered, group) for group in groups}
        try:
            done, _ = wait(searches.values(), return_when=FIRST_EXCEPTION)
            for searched in done:
                searched.result()  # raises what the search raised
        except KeyboardInterrupt:
            stopped.set()
        found = {name: searched.result() for name, searched in searches.items()}
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
    if any(interrupted for _, interrupted in found.values()):
        warnings.warn(STOPPED, RuntimeWarning, stacklevel=users_stacklevel())
    return {name: path for name, (path, _) in found.items()}


def _distance(model: nn.Module, group: ChannelGroup) -> Distance:
    return channel_distance(slices_of(model, group))


def _told(bar: tqdm[None], group: ChannelGroup, path: Permutation) -> Permutation:
    bar.set_postfix_str(f"{group.name}: {group.full_size} channels", refresh=False)
    bar.update()
    return path
