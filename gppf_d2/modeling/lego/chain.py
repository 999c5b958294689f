"""One backward order of collectives for units that run by their own ``forward``.

A unit of the plain form calls its norms itself, so nobody hands the token from one norm to the
next. The chain
does: hooks around each synchronised norm tie its input to the token and split a new token off its
output::

    token_i ─┐                       ┌─ token_{i+1} ─┐
       x_i ──┴ tie ── norm i ── fork ┴─ y_i   x_{i+1} ┴ tie ── norm i+1 ...

Norm i+1's backward therefore runs before norm i's on every rank, whether a unit is computed there
or joined with count 0, as long as all ranks agree on the order of the norms: that of
``norms_in_order``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN, sync_norms

_BLOCK_ORDER = ("conv1", "conv2", "conv3", "shortcut")


def norms_in_order(unit: nn.Module) -> list[CrossTaskSyncBN]:
    """The synchronised norms of a unit in the order in which its forward calls them.

    Detectron2's residual blocks register the shortcut first and run it last; other units are taken
    to run their modules in the order of registration, or say otherwise with a method
    ``norm_order() -> list``.
    """
    if hasattr(unit, "norm_order"):
        return [norm for norm in unit.norm_order() if isinstance(norm, CrossTaskSyncBN)]
    modules: dict[nn.Module, None] = {}
    for name in _BLOCK_ORDER:
        for module in getattr(unit, name, None) and getattr(unit, name).modules() or ():
            modules[module] = None
    for module in unit.modules():
        modules[module] = None
    return [module for module in modules if isinstance(module, CrossTaskSyncBN)]


def join(norms: list[CrossTaskSyncBN], token: Tensor | None) -> Tensor | None:
    """Take part in the collectives of norms that this rank does not run, one after another, with
    count 0.

    Collective: all ranks must call, or run the norms.
    """
    for norm in norms:
        _, token = sync_norms([norm], [None], None, token)
    return token


class Chain:
    """Threads the token through the norms of one unit while its forward runs.

    Args:
        token: what the previous norm left, None at the start.

    Attributes:
        token: what the last norm left.
    """

    def __init__(self, token: Tensor | None) -> None:
        self.token = token
        self._expected: Iterator[CrossTaskSyncBN] = iter(())

    @contextmanager
    def around(self, norms: list[CrossTaskSyncBN]) -> Iterator[None]:
        """Thread the token through ``norms``, which the block calls once each and in this order.

        Raises:
            RuntimeError: the block called them otherwise.
        """
        self._expected = iter(norms)
        hooks = []
        for norm in norms:
            hooks.append(norm.register_forward_pre_hook(self._tie))
            hooks.append(norm.register_forward_hook(self._fork))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if next(self._expected, None) is not None:
            raise RuntimeError(
                "A unit did not call all its synchronised norms; each must run once."
            )

    def _tie(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if next(self._expected, None) is not norm:
            raise RuntimeError(
                "A unit calls its synchronised norms in another order than norms_in_order says; "
                "give it a method norm_order() that lists them as its forward calls them."
            )
        if self.token is None:
            self.token = norm.weight.new_zeros(())
        return _Tie.apply(args[0], self.token), *args[1:]

    def _fork(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        output, self.token = _Fork.apply(output, self.token.dtype)
        return output


class _Tie(torch.autograd.Function):
    """(x, token) -> x: what made the token is differentiated after x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor) -> Tensor:
        ctx.like = token.dtype, token.device
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        dtype, device = ctx.like
        return grad, torch.zeros((), dtype=dtype, device=device)


class _Fork(torch.autograd.Function):
    """x -> (x, token): x is differentiated after what consumed the token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return x.detach(), x.new_zeros((), dtype=dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_token: Tensor) -> tuple[Tensor, None]:
        return grad, None
