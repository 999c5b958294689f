"""All active units of a layer advancing together, for Detectron2's three stock block types.

Legend: N units of a layer, x [B, C, H, W], u_k the gates, >= 0. *Batches* are a list of x, several
for a multi-view task; *branches* are per unit its batches, or None where it does not run.
The same function as  y = sum_k u_k unit_k(x)  at less cost:

- the first convolutions of all units, which share their input, run as one over concatenated
  weights;
- the norms of a position share ONE collective, units that do not run here counting 0;
- the gate is folded into the affine of the last norm: u relu(z) = relu(u z), through the stem's
  max-pool too, and an identity shortcut contributes u_k x;
- what follows the last convolutions is recomputed in backward from their outputs: gated branches
  are not kept. Stochastic depth is drawn before, and the same in both.

With one active unit of weight 1 the operations are those of the stock block, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN, sync_norms
from gppf_d2.modeling.lego.controller import Gate
from gppf_d2.modeling.lego.mixing import add_skip_and_mix
from gppf_d2.modeling.lego.recompute import recomputed

Batches = list[Tensor]
Branches = list[Batches | None]

# Norm positions of a unit: the convolutions whose norms share one collective.
_POSITIONS: dict[type, tuple[tuple[str, ...], ...]] = {
    BasicStem: (("conv1",),),
    BasicBlock: (("conv1",), ("conv2", "shortcut")),
    BottleneckBlock: (("conv1",), ("conv2",), ("conv3", "shortcut")),
}


def supports(units: Sequence[nn.Module]) -> bool:
    """Whether units can advance in step: one stock type, norms all synchronised or none, and
    synchronised ones that share a collective in one mode."""
    kinds = {type(unit) for unit in units}
    if len(kinds) != 1 or not kinds <= set(_POSITIONS):
        return False
    positions = norm_positions(units)
    synchronised = {isinstance(norm, CrossTaskSyncBN) for norms in positions for norm in norms}
    if synchronised != {True}:
        return synchronised == {False}
    return all(len({norm.training for norm in norms}) == 1 for norms in positions)


def norm_positions(units: Sequence[nn.Module]) -> list[list[nn.Module | None]]:
    """The norms of each position, of all units, in the order that holds on every rank."""
    return [
        [conv.norm for name in names for conv in _parts(units, name)]
        for names in _POSITIONS[type(units[0])]
    ]


def join(units: Sequence[nn.Module], token: Tensor | None) -> Tensor | None:
    """Count 0 in all collectives of the layer. Collective: all ranks must call, or `run` it."""
    for norms in norm_positions(units):
        if isinstance(norms[0], CrossTaskSyncBN):
            _, token = sync_norms(norms, [None] * len(norms), None, token)
    return token


def run(
    units: nn.ModuleList, xs: Batches, gate: Gate, token: Tensor | None, recompute: bool
) -> tuple[Batches, Tensor | None]:
    """Run the active units of a layer. Collective: all ranks must call, or `join` it.

    Args:
        units: all N units.
        xs: batches [B_i, C, H_i, W_i].
        gate: of this layer.
        token: of the chain of norm positions.
        recompute: recompute the end of the layer in backward; False within a checkpointed layer.

    Returns:
        The outputs, aligned with ``xs``, and the token.
    """
    if isinstance(units[0], BasicStem):
        return _stem(units, xs, gate, token)
    first, *middle, last = [names[0] for names in _POSITIONS[type(units[0])]]
    hidden, token = _first_position(_parts(units, first), xs, gate, token)
    for name in middle:
        convs = _parts(units, name)
        hidden, token = _normalise(_norms(convs), _convolve(convs, hidden), None, token)
        hidden = _relu_(hidden)
    lasts = _parts(units, last)
    hidden = _convolve(lasts, hidden)
    here = [xs if k in gate.active else None for k in range(len(units))]
    skips = _convolve(_parts(units, "shortcut"), here)
    kept = _draw_kept(lasts, hidden)
    end = partial(_block_end, units, _norms(lasts), xs, hidden, skips, kept, gate, token)
    if recompute and gate.only is None and torch.is_grad_enabled():
        return recomputed(end, units, preserve_rng_state=False)
    return end()


def _stem(
    units: Sequence[nn.Module], xs: Batches, gate: Gate, token: Tensor | None
) -> tuple[Batches, Tensor | None]:
    convs, weights = _parts(units, "conv1"), _weights(units, gate)
    hidden = _fan_out(convs, xs, gate)
    if _is_fused(convs, gate):
        (normed,), token = sync_norms([_norms(convs)], [hidden], [weights], token)
        pooled = [_pool(F.relu_(h)) for h in normed]
        return [p.unflatten(1, (len(units), -1)).sum(1) for p in pooled], token
    hidden, token = _normalise(_norms(convs), hidden, weights, token)
    hidden = _relu_(hidden)
    views = zip(*(hidden[k] for k in gate.active))
    return [reduce(torch.add, [_pool(h) for h in view]) for view in views], token


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _block_end(
    units: Sequence[nn.Module],
    norms: Sequence[nn.Module | None],
    xs: Batches,
    hidden: Branches,
    skips: Branches,
    kept: Branches,
    gate: Gate,
    token: Tensor | None,
) -> tuple[Batches, Tensor | None]:
    """Last norm and the shortcut's in one position, then sum over units of relu(both)."""
    weights, count = _weights(units, gate), len(units)
    if skips:
        norms = [*norms, *_norms(_parts(units, "shortcut"))]
        outputs, token = _normalise(norms, hidden + skips, weights * 2, token)
        hidden, skips = outputs[:count], outputs[count:]
    else:
        hidden, token = _normalise(norms, hidden, weights, token)
    for branches, factors in zip(hidden, kept):
        for z, factor in zip(branches or (), factors or ()):
            z.mul_(factor)
    ys = []
    for i, x in enumerate(xs):
        branches = [hidden[k][i] for k in gate.active]
        if skips:
            added = [z.add_(skips[k][i]) for k, z in zip(gate.active, branches)]
            ys.append(reduce(torch.add, [F.relu_(z) for z in added]))
        elif gate.only is not None:
            ys.append(F.relu_(branches[0].add_(x)))
        else:
            ys.append(add_skip_and_mix(x, branches, gate.weights))
    return ys, token


def _draw_kept(convs: Sequence[nn.Module], branches: Branches) -> Branches:
    """What stochastic depth multiplies each sample of a branch with, [B, 1, 1, 1]; None for 1."""
    kept: Branches = []
    for conv, xs in zip(convs, branches):
        drop = conv.activation
        draws = xs is not None and drop is not None and drop.training and drop.p > 0
        kept.append([drop(x.new_ones(len(x), 1, 1, 1)) for x in xs] if draws else None)
    return kept


def _first_position(
    convs: Sequence[nn.Module], xs: Batches, gate: Gate, token: Tensor | None
) -> tuple[Branches, Tensor | None]:
    """First convolution, norm and ReLU of a residual block, per unit."""
    norms, hidden = _norms(convs), _fan_out(convs, xs, gate)
    if _is_fused(convs, gate):
        (hidden,), token = sync_norms([norms], [hidden], None, token)
        return _apart([F.relu_(h) for h in hidden], len(convs)), token
    hidden, token = _normalise(norms, hidden, None, token)
    return _relu_(hidden), token


def _is_fused(convs: Sequence[nn.Module], gate: Gate) -> bool:
    """Whether convolutions of one input run as one: all of several, norms synchronised."""
    return len(gate.active) == len(convs) > 1 and isinstance(convs[0].norm, CrossTaskSyncBN)


def _fan_out(convs: Sequence[nn.Module], xs: Batches, gate: Gate) -> Batches | Branches:
    """Convolutions of one input, fused over channels or per unit."""
    if not _is_fused(convs, gate):
        return _convolve(convs, [xs if k in gate.active else None for k in range(len(convs))])
    weight, conv = torch.cat([conv.weight for conv in convs]), convs[0]
    return [
        F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups) for x in xs
    ]


def _apart(fused: Batches, count: int) -> Branches:
    """Branches that are channel slices of fused batches."""
    return [list(views) for views in zip(*(x.chunk(count, dim=1) for x in fused))]


def _parts(units: Sequence[nn.Module], name: str) -> list[nn.Module]:
    parts = [getattr(unit, name) for unit in units]
    return [part for part in parts if part is not None]


def _norms(convs: Sequence[nn.Module]) -> list[nn.Module | None]:
    return [conv.norm for conv in convs]


def _weights(units: Sequence[nn.Module], gate: Gate) -> list[Tensor | None]:
    """The gate's weights per unit, None where it does not run."""
    weights = dict(zip(gate.active, gate.weights))
    return [weights.get(k) for k in range(len(units))]


def _convolve(convs: Sequence[nn.Module], branches: Branches) -> Branches:
    """The convolution of each unit alone, without its norm; no branches for no convolutions."""
    return [
        xs and [F.conv2d(x, c.weight, None, c.stride, c.padding, c.dilation, c.groups) for x in xs]
        for c, xs in zip(convs, branches)
    ]


def _normalise(
    norms: Sequence[nn.Module | None],
    branches: Branches,
    weights: Sequence[Tensor | None] | None,
    token: Tensor | None,
) -> tuple[Branches, Tensor | None]:
    """One norm position with the gates folded in, whatever the kind of norm."""
    if isinstance(norms[0], CrossTaskSyncBN):
        return sync_norms(norms, branches, weights, token)
    weights = weights or [None] * len(norms)
    return [
        xs and [_scaled(x if norm is None else norm(x), weight) for x in xs]
        for norm, xs, weight in zip(norms, branches, weights)
    ], token


def _scaled(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight.to(x.dtype)


def _relu_(branches: Branches) -> Branches:
    return [xs and [F.relu_(x) for x in xs] for xs in branches]
