"""The orders of all groups: threads, progress, Ctrl-C."""

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import models
import numpy as np
import pytest
import torch
from torch import nn

from integralrob.conversion import IntegralModel, convert, group_orders, ordering

pytest.importorskip("torch_pruning")

WIDTHS = (40, 48, 56, 64)


def network() -> nn.Module:
    class Perceptron(nn.Sequential):
        def __init__(self):
            widths = (6, *WIDTHS, 3)
            super().__init__(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))

    return models.seeded(Perceptron)


def orders(integral: IntegralModel) -> list[tuple[int, ...]]:
    return [group.order for group in integral.groups.values()]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Searches that only Ctrl-C ends, also where it is ignored, as in a shell's background; set once one has begun."""
    begun = threading.Event()

    def search(distance, progress):
        begun.set()
        return ordering.search(distance, kicks=1 << 62, stall=1 << 62, progress=progress)

    monkeypatch.setattr(group_orders, "search", search)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield begun
    signal.signal(signal.SIGINT, before)


def test_the_number_of_threads_changes_nothing():
    model, x = network(), torch.randn(2, 6)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(orders(convert(model, x, progress=False)))
        finally:
            torch.set_num_threads(1)
    one_by_one = convert(model, x, order=lambda distance: ordering.shortest_path(distance), progress=False)
    assert found[0] == found[1] == orders(one_by_one)


def test_groups_are_ordered_at_the_same_time(monkeypatch):
    together = threading.Barrier(2, timeout=30)

    def search(distance, progress):
        together.wait()  # for another group's
        return np.arange(len(distance)), False

    monkeypatch.setattr(group_orders, "search", search)
    torch.set_num_threads(2)
    try:
        integral = convert(network(), torch.randn(2, 6), progress=False)
    finally:
        torch.set_num_threads(1)
    assert orders(integral) == [tuple(range(width)) for width in WIDTHS]


def test_the_bar_shows_stage_group_and_length(monkeypatch, capfd):
    def search(distance, progress):
        progress(0.1, 12.345678)
        time.sleep(0.12)  # what tqdm waits before it shows something new
        return ordering.search(distance)

    monkeypatch.setattr(group_orders, "search", search)
    convert(network(), torch.randn(2, 6))
    shown = capfd.readouterr().err
    stages = ["tracing channels", "checking groups", "ordering channels", "checking outputs"]
    places = [shown.find(stage) for stage in stages]
    assert -1 not in places
    assert places == sorted(places)
    for i, width in enumerate(WIDTHS):
        assert f"{i}: {width} channels, path 12.35" in shown
    assert re.search(r"checking outputs: 100%.* 4/4", shown)


def interrupt_after(begun: threading.Event) -> None:
    main = threading.main_thread().ident

    def interrupt() -> None:
        begun.wait()
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a thread")
def test_ctrl_c_ends_the_search_in_all_groups(endless):
    model, x = network(), torch.randn(2, 6)
    interrupt_after(endless)
    with pytest.warns(RuntimeWarning, match=r"stopped by Ctrl-C: it is the best found so far") as caught:
        integral = convert(model, x, progress=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [sorted(order) for order in orders(integral)] == [list(range(width)) for width in WIDTHS]
    torch.testing.assert_close(integral(x), model(x))
    integral.resize(0.5)
    integral(x)
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_an_order_raises_ends_the_conversion(error):
    def order(distance):
        raise error("enough")

    with pytest.raises(error, match="enough"):
        convert(network(), torch.randn(2, 6), order=order, progress=False)


def test_what_a_search_raises_ends_the_conversion_and_the_other_searches(monkeypatch):
    def search(distance, progress):
        if len(distance) == WIDTHS[0]:
            raise MemoryError("too large")
        return ordering.search(distance, kicks=1 << 62, stall=1 << 62, progress=progress)

    monkeypatch.setattr(group_orders, "search", search)
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError, match="too large"):
            convert(network(), torch.randn(2, 6), progress=False)
    finally:
        torch.set_num_threads(1)
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())
