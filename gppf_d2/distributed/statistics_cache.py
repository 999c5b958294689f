"""Merged statistics kept for the recomputation of activation checkpointing.

Non-reentrant checkpointing runs a block's forward a second time inside backward. A synchronised
norm must not issue its collective again there (other ranks are elsewhere by then) nor move its
running statistics twice. So the first run records the merged statistics of each norm position, and
the recomputation replays them::

    checkpoint(block, x, token, use_reentrant=False, context_fn=statistics_contexts)

The contexts are per thread: recomputation happens in autograd's device threads.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from gppf_d2.distributed.moments import Merged

_thread = threading.local()


class StatisticsCache:
    """Merged statistics of the norm positions of one checkpointed call, in calling order."""

    def __init__(self) -> None:
        self._recorded: list[Merged] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._recorded)

    def clear(self) -> None:
        """Forget everything recorded."""
        self._recorded.clear()
        self._next = 0

    def rewind(self) -> None:
        """Replay from the first position on."""
        self._next = 0

    def store(self, merged: Merged) -> None:
        """Append the statistics of one position."""
        self._recorded.append(merged)

    def take(self) -> Merged:
        """The statistics of the next position."""
        assert self._next < len(self._recorded), (
            f"recomputation reached norm position {self._next + 1}, the first run had "
            f"{len(self._recorded)}: the checkpointed block must do the same both times"
        )
        self._next += 1
        return self._recorded[self._next - 1]


class _Context(AbstractContextManager):
    """Makes a cache the innermost one of this thread; may be entered again and again."""

    def __init__(self, cache: StatisticsCache, replays: bool) -> None:
        self.cache, self.replays = cache, replays
        self._outer: list[_Context | None] = []

    def __enter__(self) -> StatisticsCache:
        if self.replays:
            self.cache.rewind()
        else:
            self.cache.clear()
        self._outer.append(_innermost())
        _thread.context = self
        return self.cache

    def __exit__(self, *exception: object) -> None:
        _thread.context = self._outer.pop()


def record(cache: StatisticsCache) -> AbstractContextManager[StatisticsCache]:
    """Norm positions inside work as ever and leave their merged statistics in ``cache``."""
    return _Context(cache, replays=False)


def replay(cache: StatisticsCache) -> AbstractContextManager[StatisticsCache]:
    """Norm positions inside reuse the statistics of ``cache``: no collective, no update.

    Norms without a group take theirs from the input again and need nothing recorded.
    """
    return _Context(cache, replays=True)


def statistics_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """A new cache's (record, replay) pair: the ``context_fn`` of ``torch.utils.checkpoint``."""
    cache = StatisticsCache()
    return record(cache), replay(cache)


def _innermost() -> _Context | None:
    return getattr(_thread, "context", None)


def recording() -> StatisticsCache | None:
    """The cache of the innermost context if it is a `record`."""
    context = _innermost()
    return context.cache if context is not None and not context.replays else None


def replaying() -> StatisticsCache | None:
    """The cache of the innermost context if it is a `replay`."""
    context = _innermost()
    return context.cache if context is not None and context.replays else None
