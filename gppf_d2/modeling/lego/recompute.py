"""Running parts of the backbone again, or beside the training graph, without side effects.

Activation checkpointing is non-reentrant. Its recomputation issues no collective, takes the merged
statistics of the first run, and leaves running statistics alone, also those of ordinary BatchNorm,
which would move twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN, statistics_contexts


def recomputed(function: Callable[[], Any], module: nn.Module, preserve_rng_state: bool) -> Any:
    """Call ``function`` now, keep none of its activations, and call it again in backward.

    Args:
        function: without arguments; tensors it closes over are differentiated.
        module: whose norms it runs, in training mode.
        preserve_rng_state: recompute with the random numbers of the first run.

    Returns:
        What ``function`` returns.
    """

    def contexts() -> tuple[Any, Any]:
        recording, replaying = statistics_contexts()
        return recording, _again(replaying, module)

    # Without an argument on it, a device's generator would not be kept for the recomputation.
    where = [parameter.detach() for parameter in module.parameters()][:1]
    return checkpoint(
        lambda *_: function(),
        *where,
        use_reentrant=False,
        preserve_rng_state=preserve_rng_state,
        context_fn=contexts,
    )


@contextmanager
def _again(replaying: Any, module: nn.Module) -> Iterator[None]:
    with replaying, training_mode(module, True), _still(module):
        yield


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put a module into a mode for the block, then give each part back its own."""
    if module.training == training:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """BatchNorm without cross-task statistics keeps its running statistics during the block."""
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and not isinstance(part, CrossTaskSyncBN)
    ]
    buffers = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, originals in zip(norms, buffers):
            norm._buffers.update(originals)


@contextmanager
def local_statistics(module: nn.Module) -> Iterator[None]:
    """Norms normalise with this rank's batch alone and move no running statistics during the block.

    For calls beside the training graph (momentum copies): no collective, nothing stays.
    """
    norms = [part for part in module.modules() if isinstance(part, CrossTaskSyncBN)]
    groups = [norm.group for norm in norms]
    _, replaying = statistics_contexts()
    try:
        for norm in norms:
            norm.group = None
        with replaying, _still(module):
            yield
    finally:
        for norm, group in zip(norms, groups):
            norm.group = group
