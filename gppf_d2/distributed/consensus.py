"""All ranks decide together: errors, comparisons, first broadcast, replica check.

A rank that stops alone leaves the others waiting in a collective. So whatever one rank alone may
see (a missing folder, a truncated file, another config) is agreed before the first training
collective, and every rank raises the same sentence. Groups: ``ProcessGroups.control`` (gloo,
objects on the CPU) for words, ``gradients`` for tensors. Without a process group, or with one
rank, every function answers for this process alone and issues no collective.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MISSING = object()
BROADCAST_BYTES = 25 << 20


class AgreedError(ValueError):
    """An error that every rank raises together, with the same sentence."""


def _alone(group: dist.ProcessGroup | None) -> bool:
    return not dist.is_initialized() or dist.get_world_size(group) == 1


def gather(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """The picklable value of every rank of the group, in rank order.

    Collective: all ranks must call.
    """
    if _alone(group):
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def agree(error: str | None, group: dist.ProcessGroup | None = None) -> None:
    """Raise on all ranks if one of them has an error.

    Collective: all ranks must call.

    Args:
        error: this rank's sentence, ``None`` if all is well.
        group: of all ranks, gloo.

    Raises:
        ValueError: with the sentence of the lowest failing rank, saying which rank that is unless
            all ranks say the same.
    """
    errors = gather(error, group)
    failing = [rank for rank, sentence in enumerate(errors) if sentence is not None]
    if not failing:
        return
    first = failing[0]
    everyone = len(failing) == len(errors) and len(set(errors)) == 1
    raise AgreedError(errors[first] if everyone else f"{errors[first]} (seen by rank {first})")


@contextlib.contextmanager
def agreed(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Agree on the user errors (ValueError, KeyError, OSError) of the block on leaving it.

    Collective: all ranks must enter; nothing inside may be a collective.

    Raises:
        ValueError: on all ranks, as ``agree``.
    """
    error = None
    try:
        yield
    except (ValueError, KeyError, OSError) as raised:
        error = raised
    sentence = None
    if error is not None:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sentence = str(text) or type(error).__name__
    try:
        agree(sentence, group)
    except ValueError as verdict:
        raise verdict from error


def from_first(value: Any, group: dist.ProcessGroup | None = None) -> Any:
    """Rank 0's value (a picklable object), on every rank. Collective: all ranks must call."""
    if _alone(group):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def any_rank(flag: bool, group: dist.ProcessGroup | None = None) -> bool:
    """Whether the flag is set on any rank. Collective: all ranks must call."""
    if _alone(group):
        return bool(flag)
    value = torch.tensor(int(flag))
    dist.all_reduce(value, dist.ReduceOp.MAX, group=group)
    return bool(value.item())


def compare(
    values: Mapping[str, Any],
    group: dist.ProcessGroup | None = None,
    what: str = "settings",
    remedy: str = "start all processes with the same code, config and overrides",
) -> None:
    """Check that all ranks hold the same values.

    Collective: all ranks must call. A digest travels; the values only if digests differ.

    Args:
        values: label -> JSON-able value; dicts and lists are searched for the leaf that differs.
        group: of all ranks, gloo.
        what: is compared, for the sentence.
        remedy: what to do about a difference, for the sentence.

    Raises:
        ValueError: on all ranks, with the first label that differs and both ranks' values.
    """
    values = json.loads(json.dumps(dict(values)))
    text = json.dumps(values).encode()
    if len(set(gather(hashlib.blake2b(text).hexdigest(), group))) == 1:
        return
    first, *others = gather(values, group)
    for rank, other in enumerate(others, start=1):
        difference = _first_difference(first, other, "")
        if difference is not None:
            label, mine, theirs = difference
            raise AgreedError(
                f"the {what} differ: {label} is {mine:.200} on rank 0 and {theirs:.200} on rank "
                f"{rank}; {remedy}"
            )
    raise AssertionError("digests differ but values do not")


def _first_difference(a: Any, b: Any, label: str) -> tuple[str, str, str] | None:
    """(label, shown a, shown b) of the first leaf that differs, if any; key order counts."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        parts = ((a.get(k, MISSING), b.get(k, MISSING), f"{label}.{k}".strip(".")) for k in keys)
        found = next((d for part in parts if (d := _first_difference(*part))), None)
        if found is None and list(a) != list(b):
            return f"the order of {label or 'the labels'}", _shown(list(a)), _shown(list(b))
        return found
    if isinstance(a, list) and isinstance(b, list):
        pairs = itertools.zip_longest(a, b, fillvalue=MISSING)
        parts = ((x, y, f"{label}[{i}]") for i, (x, y) in enumerate(pairs))
        return next((d for part in parts if (d := _first_difference(*part))), None)
    return None if _shown(a) == _shown(b) else (label, _shown(a), _shown(b))


def _shown(value: Any) -> str:
    return "missing" if value is MISSING else json.dumps(value)


def broadcast_module(
    module: nn.Module,
    group: dist.ProcessGroup | None = None,
    skip: Callable[[str], bool] = lambda name: False,
    source: int | None = None,
) -> None:
    """Give all ranks the source's parameters and buffers, once, before the first step.

    Collective: all ranks must call. Tensors travel as bytes, coalesced by dtype and device.

    Args:
        module: of the same structure on all ranks.
        group: for the module's device.
        skip: tells by its name which tensor stays as it is (heads of other ranks).
        source: rank in the world whose values all get.
        source: global rank whose values count; by default the group's first.
    """
    if _alone(group):
        return
    if source is None:
        source = 0 if group is None else dist.get_global_rank(group, 0)
    kinds: dict[tuple, list[Tensor]] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not skip(name):
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for tensors in kinds.values():
        for chunk in _chunks(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in chunk])
            dist.broadcast(flat.view(torch.uint8), source, group)
            parts = flat.split([tensor.numel() for tensor in chunk])
            for tensor, part in zip(chunk, parts):
                tensor.copy_(part.view(tensor.shape))


def _chunks(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of about ``BROADCAST_BYTES`` together; empty ones are left out."""
    chunk: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if tensor.numel() == 0:
            continue
        chunk.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BROADCAST_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def tensor_digest(tensor: Tensor) -> str:
    """A hash of dtype, shape and every bit of the values."""
    state = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    state.update(memoryview(values.numpy()))
    return state.hexdigest()


def check_replicas(
    tensors: Iterable[tuple[str, Tensor]], group: dist.ProcessGroup | None = None
) -> None:
    """Check that named tensors are bit-equal on all ranks (invariant I1).

    Collective: all ranks must call. Copies everything to the CPU once: not for every step.

    Args:
        tensors: (name, tensor) of what all ranks of the group hold: parameters, buffers, optimizer
            state.
        group: gloo.

    Raises:
        RuntimeError: on all ranks, naming the first tensor that differs and the ranks that differ
            from rank 0.
    """
    digests = {name: tensor_digest(tensor) for name, tensor in tensors}
    whole = hashlib.blake2b(json.dumps(digests).encode()).hexdigest()
    if len(set(gather(whole, group))) == 1:
        return
    first, *others = gather(digests, group)
    for name in [*first, *(n for other in others for n in other if n not in first)]:
        odd = [r for r, other in enumerate(others, start=1) if other.get(name) != first.get(name)]
        if odd:
            raise RuntimeError(
                f"replicas differ: {name} is not bit-equal on rank 0 and on ranks {odd} (of "
                f"{len(first)} tensors it is the first); go back to the last checkpoint"
            )
    raise RuntimeError("replicas differ: the ranks name their tensors in another order")
