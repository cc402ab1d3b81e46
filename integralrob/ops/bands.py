"""Bands: the sparse rows that turn control values on one axis into samples at arbitrary points.

A band holds, for each of `M` points, a first node `start[m]` and `T` consecutive weights `weight[m, :]`. Interpolation
kernel, padding, antialiasing and quadrature all live in these few numbers, so the sampling kernels never learn of them.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._checks import check_bool, check_choice, check_int, check_real, check_tensor, describe, has_values

Band = tuple[Tensor, Tensor]

PADDINGS = ("border", "zeros", "reflection")

_FARTHEST = 1e6


def cubic_band(
    points: Tensor,
    size: int,
    scale: Tensor | None = None,
    *,
    a: float = -0.75,
    padding: str = "border",
    antialias: bool = False,
) -> Band:
    r"""Weights of Keys' cubic convolution for sampling one axis of `size` control values at `points`.

    Node `s` sits at ``-1 + 2 s / (size - 1)``, so a point `p` has the node position ``x = (p + 1) / 2 · (size - 1)``,
    and sample `m` is ``Σ_s scale[m] · k(x_m - s) · values[s]`` with

    .. math:: k(u) = \begin{cases} (a+2)|u|^3 - (a+3)u^2 + 1 & |u| \le 1 \\
        a(|u|^3 - 5u^2 + 8|u| - 4) & 1 < |u| < 2 \end{cases}

    ``a = -0.75`` is what ``F.grid_sample(mode="bicubic", align_corners=True)`` uses; ``a = -0.5`` reproduces quadratics
    and converges with order 3.

    Args:
        points: ``[M]``, any order, inside [-1, 1] or not, finite, of at most 10⁶ in magnitude. On a GPU they are looked
            at only where the band is cached: a training step does not wait for the GPU, and a NaN there makes NaN
            weights. No start is ever out of range.
        size: number of control values, at least 2.
        scale: ``[M]`` factors (quadrature weights), or None.
        a: the kernel's parameter, finite.
        padding: what a tap outside the axis reads: the nearest node (``border``), nothing (``zeros``), or the node
            mirrored at the end nodes (``reflection``).
        antialias: widen the kernel at each point by the local spacing of the points in node units (if that is above 1),
            drop the taps outside and normalise, as ``F.interpolate(antialias=True)`` does; `padding` has then no
            effect, and points beyond half a node outside the axis count as half a node outside.

    Returns:
        ``start`` int64 ``[M]`` and ``weight`` float64 ``[M, T]`` (float32 on devices without float64), with
        ``start + T <= size``. ``T = min(4, size)``, or with `antialias` ``min(size, ⌈4 · largest spacing⌉)``, which is
        a number that each new band waits for on a GPU; where the points cannot be looked at (`torch.compile`, meta
        tensors) the antialiased band is dense (``T = size``).
        Differentiable in `points` and `scale`, any number of times. If neither needs a gradient the work is cached, by
        the identity and version of the tensors. What torch does not count as a new version is not noticed: do not write
        to the points through ``.data``, nor, where they share memory with a NumPy array, from there. A CUDA graph
        reads the band that was cached when it was captured: keep the points alive, and a layer's size, while it runs.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Complexity: ``O(M · T)``.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981.

    >>> start, weight = cubic_band(torch.tensor([-1.0, 0.25, 1.0]), 5)
    >>> start.tolist(), weight[1].tolist()
    ([0, 1, 1], [-0.09375, 0.59375, 0.59375, -0.09375])
    """
    start, weight = cubic_band_as(None, points, size, scale, a, padding, antialias)
    return start.clone(), weight.clone()


def cubic_band_as(
    dtype: torch.dtype | None,
    points: Tensor,
    size: int,
    scale: Tensor | None,
    a: float,
    padding: str,
    antialias: bool,
    names: tuple[str, str] = ("points", "scale"),
) -> Band:
    """`cubic_band` with its weights cast to `dtype` (None: as computed): the cached tensors, which are read-only.

    Errors call the points and the scale by `names`.
    """
    _check_tensors(points, scale, *names)
    size = check_int("size", size, minimum=2)
    a = check_real("a", a)
    if not abs(a) < math.inf:
        raise ValueError(f"a: expected a finite number, got {a}")
    check_choice("padding", padding, PADDINGS)
    antialias = check_bool("antialias", antialias)

    def build() -> Band:
        start, weight = _build(points, size, scale, a, padding, antialias)
        return start, weight if dtype is None else weight.to(dtype)

    tensors = (points,) if scale is None else (points, scale)
    if not cacheable(tensors):
        if points.device.type == "cpu":
            _check_values(names[0], points)
        return build()
    key = (dtype, tuple((id(t), t._version) for t in tensors), size, a, padding, antialias)
    band = _cache.get(key, tensors)
    if band is None:
        _check_values(names[0], points)
        with torch.inference_mode(False), torch.no_grad():
            band = build()
        if points.is_cuda:  # another stream may be the next to use it
            torch.cuda.current_stream(points.device).synchronize()
        _cache.put(key, tensors, band)
    if points.is_cuda:  # this stream may still read it when it leaves the cache
        for tensor in band:
            tensor.record_stream(torch.cuda.current_stream(points.device))
    return band


def _check_tensors(points: Tensor, scale: Tensor | None, points_name: str, scale_name: str) -> None:
    check_tensor(points_name, points)
    if points.dim() != 1 or points.shape[0] == 0:
        raise ValueError(f"{points_name}: expected a non-empty tensor of shape [M], got {describe(points)}")
    if scale is None:
        return
    check_tensor(scale_name, scale)
    if scale.shape != points.shape or scale.device != points.device:
        raise ValueError(
            f"{scale_name}: expected shape {tuple(points.shape)} on {points.device} like {points_name}, "
            f"got {describe(scale)} on {scale.device}"
        )


def _check_values(name: str, points: Tensor) -> None:
    if not has_values(points):
        return
    largest = float(points.detach().abs().max())  # NaN if one is
    if not largest <= _FARTHEST:
        raise ValueError(
            f"{name}: expected finite values of at most {_FARTHEST:g} in magnitude, beyond which round-off blurs the "
            f"positions between nodes, got {largest:g}"
        )


def keys_kernel(u: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel ``k(u)``; zero for ``|u| >= 2``, NaN for NaN.

    Written in ``u²`` and ``|u|·u²`` so that autograd's second derivative is right at ``u = 0`` too.
    """
    square, distance = u * u, u.abs()
    inner = (a + 2) * distance * square - (a + 3) * square + 1
    outer = a * (distance * square - 5 * square + 8 * distance - 4)
    return torch.where(distance <= 1, inner, torch.where(distance >= 2, torch.zeros_like(u), outer))


def _build(points: Tensor, size: int, scale: Tensor | None, a: float, padding: str, antialias: bool) -> Band:
    dtype = torch.float32 if points.device.type == "mps" else torch.float64
    position = (points.to(dtype) + 1) * ((size - 1) / 2)
    # A point that was meant to be a node is one: round-off must not spill 1e-16 onto the neighbours.
    nearest = position.detach().round()
    is_node = (position.detach() - nearest).abs() <= 1e-12 * size
    position = torch.where(is_node, position + (nearest - position).detach(), position)
    start, weight = _antialiased(position, size, a) if antialias else _interpolating(position, size, a, padding)
    if scale is not None:
        weight = weight * scale.to(dtype)[:, None]
    return start, weight


def _interpolating(position: Tensor, size: int, a: float, padding: str) -> Band:
    """Four taps around each position; a tap outside lands on, and adds its weight to, the node that `padding` names."""
    taps = min(4, size)
    base = position.detach().floor()
    offset = torch.arange(-1, 3, dtype=position.dtype, device=position.device)
    weight = keys_kernel((position - base)[:, None] - offset, a)
    node = base[:, None] + offset
    inside = torch.ones_like(node, dtype=torch.bool)
    if padding == "reflection":
        node = node.remainder(2 * (size - 1))
        node = torch.minimum(node, 2 * (size - 1) - node)
    elif padding == "zeros":
        inside = ~((node < 0) | (node > size - 1))
        weight = torch.where(inside, weight, torch.zeros_like(weight))
    node = _as_node(node, size - 1)
    start = node.amin(1).clamp(max=size - taps)
    slot = (node - start[:, None]).masked_fill(~inside, 0)
    # A sum over the taps, not a scatter_add, which adds in any order on a GPU.
    lands = slot[:, :, None] == torch.arange(taps, device=position.device)
    return start, (lands * weight[:, :, None]).sum(1)


def _as_node(position: Tensor, last: int) -> Tensor:
    """The whole number as an index from 0 to `last`, also where it is NaN or infinite."""
    return position.nan_to_num().clamp(0, last).long()


def _antialiased(position: Tensor, size: int, a: float) -> Band:
    """The kernel widened by the local spacing, over the nodes inside the axis, normalised to sum 1."""
    spacing = _local_spacing(position, size)
    width = torch.where(spacing <= 1 + 1e-9, torch.ones_like(spacing), spacing)
    position = position.clamp(-0.5, size - 0.5)
    taps = size
    if has_values(width):
        widest = float(width.detach().nan_to_num(1).clamp(max=size).max())
        taps = min(size, math.ceil(4 * widest - 1e-9))
    start = _as_node((position.detach() - 2 * width.detach()).floor() + 1, size - taps)
    node = start[:, None] + torch.arange(taps, device=position.device)
    weight = keys_kernel((position[:, None] - node) / width[:, None], a)
    return start, weight / weight.sum(1, keepdim=True)


def _local_spacing(position: Tensor, size: int) -> Tensor:
    """Half the distance between the neighbours of each point, in nodes; one-sided at the ends; `size` for one point."""
    if position.shape[0] == 1:
        return torch.full_like(position, size)
    ahead = position[1:] - position[:-1]
    inner = (position[2:] - position[:-2]) / 2
    return torch.cat([ahead[:1], inner, ahead[-1:]]).abs()


class _BandCache:
    """The most recently used bands, keyed by the identity and version of the tensors they were made from.

    Once one of these tensors is gone, `put` drops the bands made from it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # Noted, not acted upon, where a tensor dies: that can be anywhere, also while the lock is held.
        self.dead: list[Hashable] = []
        self.lock = threading.Lock()
        self.entries: OrderedDict[Hashable, tuple[tuple[weakref.ref[Tensor], ...], Band]] = OrderedDict()

    def get(self, key: Hashable, tensors: tuple[Tensor, ...]) -> Band | None:
        with self.lock:
            entry = self.entries.get(key)
            if entry is None:
                return None
            sources, band = entry
            # An id can be used again by another tensor once the first is gone.
            if any(source() is not tensor for source, tensor in zip(sources, tensors, strict=True)):
                del self.entries[key]
                return None
            self.entries.move_to_end(key)
            return band

    def put(self, key: Hashable, tensors: tuple[Tensor, ...], band: Band) -> None:
        sources = tuple(weakref.ref(tensor, lambda _: self.dead.append(key)) for tensor in tensors)
        with self.lock:
            while self.dead:
                self.entries.pop(self.dead.pop(), None)
            self.entries[key] = sources, band
            if len(self.entries) > self.capacity:
                self.entries.popitem(last=False)


_cache = _BandCache(capacity=1024)


def cacheable(tensors: Sequence[Tensor]) -> bool:
    """Whether what is made of these tensors, without a gradient, can be kept by their identity and version."""
    # Tensors made under inference_mode have no version, while tracing there is no identity to speak of, and tangents
    # and the tensors of `torch.func` live no longer than their level.
    return not (
        torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or any(type(t) not in (Tensor, torch.nn.Parameter) or t.is_inference() for t in tensors)
        or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )
