"""The lego layer: N units of one or several architectures, mixed by a task's gate (GPPF section
3.2, figure 2a).

    y = sum_k u_k unit_k(x)

Two forms compute it. ``plain`` calls the units as they are, one after another: the reference, and
the form for units that are not Detectron2's stock blocks. ``in_step`` lets stock blocks advance
together (`in_step`). A unit that does not run on this rank takes part in the collectives of its
norms with count 0, and the token threads all norms into one chain (`chain`,
`distributed.sync_bn`), so any mixture of routes is safe. The collectives of the two forms differ:
all ranks use the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from gppf_d2.modeling.lego import chain, in_step
from gppf_d2.modeling.lego.controller import Gate
from gppf_d2.modeling.lego.mixing import straight_through
from gppf_d2.modeling.lego.stochastic_depth import draws

FORMS = ("in_step", "plain")


class LegoLayer(nn.Module):
    """N candidate units of one layer.

    Args:
        units: modules from [B, C, H, W] to [B, C', H', W'].
        mixing: "in_step", which falls back to plain for units that are no stock blocks, or "plain".

    Raises:
        ValueError: no unit, or another mixing.
    """

    def __init__(self, units: Sequence[nn.Module], mixing: str = "in_step") -> None:
        super().__init__()
        if not units:
            raise ValueError("A layer got no unit; give num_units >= 1.")
        if mixing not in FORMS:
            raise ValueError(f"Unknown mixing {mixing!r}; choose one of {', '.join(FORMS)}.")
        self.units = nn.ModuleList(units)
        self.mixing = mixing
        self.choose_form()

    def choose_form(self) -> None:
        """Fall back to the plain form where the units cannot advance in step (any more)."""
        if not in_step.supports(self.units):
            self.mixing = "plain"

    def forward(
        self, xs: list[Tensor], gate: Gate, token: Tensor | None = None, recompute: bool = True
    ) -> tuple[list[Tensor], Tensor | None]:
        """Mix the active units.

        In evaluation a unit that is alone with weight 1 is called as it is, so that the routed
        backbone equals the exported one bit for bit.

        Collective in training with a statistics group: all ranks must call, or `join`.

        Args:
            xs: batches [B_i, C, H_i, W_i]; several are the views of a multi-view task.
            gate: of this layer.
            token: of the chain of norm positions, None at its start.
            recompute: let the in-step form recompute cheap parts in backward.

        Returns:
            The outputs, aligned with ``xs``, and the token.
        """
        if not self.training and gate.only is not None:
            return [self.units[gate.only](x) for x in xs], token
        if self.mixing == "in_step":
            ys, token = in_step.run(self.units, xs, gate, token, recompute)
        else:
            ys, token = self._plain(xs, gate, token)
        if gate.straight_through is not None and torch.is_grad_enabled():
            ys = [straight_through(y, gate.straight_through) for y in ys]
        return ys, token

    @property
    def is_random(self) -> bool:
        """Whether a training call may draw random numbers; what plain units do is not known."""
        return self.mixing == "plain" or draws(self)

    def join(self, token: Tensor | None) -> Tensor | None:
        """Take part in this layer's collectives with count 0.

        Collective in training with a statistics group: all ranks must call, or run the layer.
        """
        if self.mixing == "in_step":
            return in_step.join(self.units, token)
        for unit in self.units:
            token = chain.join(chain.norms_in_order(unit), token)
        return token

    def _plain(
        self, xs: list[Tensor], gate: Gate, token: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        weights = dict(zip(gate.active, gate.weights))
        branches = []
        for k, unit in enumerate(self.units):
            training = [norm for norm in chain.norms_in_order(unit) if norm.training]
            norms = [norm for norm in training if norm.group is not None]
            if k not in weights:
                token = chain.join(norms, token)
                continue
            # without a group too: there the preflight finds it, before any rank waits
            if len(xs) > 1 and training:
                raise ValueError(
                    "The plain form cannot normalise a multi-view batch, whose views share their "
                    "statistics; use mixing='in_step' with stock blocks, or one batch."
                )
            links = chain.Chain(token)
            with links.around(norms):
                ys = [unit(x) for x in xs]
            token = links.token
            weight = weights[k]
            branches.append(ys if weight is None else [y * weight.to(y.dtype) for y in ys])
        return [reduce(torch.add, views) for views in zip(*branches)], token
