"""Slow references of the lego layer, in plain tensor operations and one process.

`lego_features` runs a lego ResNet on several batches of different sizes, each with gates of its
own,
that share their statistics: the views of a multi-view task, or the batches of several ranks. A
norm's moments are those of all pixels of the batches that run its unit ("nhw"), or the mean over
those batches of the first two moments of each ("equal").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from gppf_d2.modeling.lego import Gate, LegoResNet


def lego_features(
    backbone: LegoResNet,
    gates: Sequence[Sequence[Gate]],
    xs: Sequence[Tensor],
    names: Sequence[str],
    weighting: str = "nhw",
    stop_after: Sequence[int] | None = None,
    generators: Sequence[torch.Generator] = (),
) -> list[dict[str, Tensor]]:
    """Features of each batch; gradients flow to units, gates and inputs.

    Args:
        backbone: its units are used, its own forward is not.
        gates: per batch its gates, one per layer.
        xs: batches [B_i, 3, H_i, W_i].
        names: of the features.
        weighting: "nhw" or "equal".
        stop_after: per batch the number of layers it runs; default all.
        generators: per batch what stochastic depth draws from; none of it without them.
    """
    lasts = stop_after or [len(backbone.layer_names)] * len(xs)
    outputs: list[dict[str, Tensor]] = [{} for _ in xs]
    xs = list(xs)
    for i, (layer_name, layer) in enumerate(zip(backbone.layer_names, backbone.layers)):
        mixed: list[Tensor | float] = [0.0] * len(xs)
        for k, unit in enumerate(layer.units):
            here = [v for v in range(len(xs)) if i < lasts[v] and k in gates[v][i].active]
            if not here:
                continue
            kept: list[Tensor | float] = [1.0] * len(here)
            if generators and i > 0 and backbone.drop_path_rates[i - 1]:
                share = 1 - backbone.drop_path_rates[i - 1]
                kept = [
                    xs[v].new_empty(len(xs[v]), 1, 1, 1).bernoulli_(share, generator=generators[v])
                    / share
                    for v in here
                ]
            for v, y in zip(here, _unit(unit, [xs[v] for v in here], kept, weighting)):
                gate = gates[v][i]
                weight = gate.weights[gate.active.index(k)]
                if gate.straight_through is not None:
                    weight = 1 + gate.straight_through - gate.straight_through.detach()
                mixed[v] = mixed[v] + (y if weight is None else weight * y)
        xs = mixed
        stage, _, block = layer_name.partition(".")
        if stage in names and (not block or int(block) == len(getattr(backbone, stage)) - 1):
            for output, x in zip(outputs, xs):
                output[stage] = x
    return outputs


def _unit(
    unit: nn.Module, xs: Sequence[Tensor], kept: Sequence[Tensor | float], weighting: str
) -> list[Tensor]:
    if hasattr(unit, "depthwise"):
        hidden = [h.relu() for h in _conv_norm(unit.depthwise, xs, weighting)]
        hidden = _conv_norm(unit.pointwise, hidden, weighting)
        skips = xs if unit.shortcut is None else _conv_norm(unit.shortcut, xs, weighting)
        return [(h * m + s).relu() for h, m, s in zip(hidden, kept, skips)]
    if not hasattr(unit, "shortcut"):
        stem = _conv_norm(unit.conv1, xs, weighting)
        return [F.max_pool2d(h.relu(), 3, 2, 1) for h in stem]
    hidden = [h.relu() for h in _conv_norm(unit.conv1, xs, weighting)]
    hidden = _conv_norm(unit.conv2, hidden, weighting)
    if hasattr(unit, "conv3"):
        hidden = _conv_norm(unit.conv3, [h.relu() for h in hidden], weighting)
    skips = xs if unit.shortcut is None else _conv_norm(unit.shortcut, xs, weighting)
    return [(h * m + s).relu() for h, m, s in zip(hidden, kept, skips)]


def _conv_norm(conv: nn.Module, xs: Sequence[Tensor], weighting: str) -> list[Tensor]:
    if hasattr(conv, "offset"):
        places = [F.conv2d(x, *conv.offset.parameters(), conv.stride, conv.padding) for x in xs]
        hs = [
            deform_conv2d(x, place, conv.weight, None, conv.stride, conv.padding)
            for x, place in zip(xs, places)
        ]
    else:
        settings = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
        hs = [F.conv2d(x, conv.weight, None, **settings) for x in xs]
    rows = [h.transpose(0, 1).flatten(1) for h in hs]
    if weighting == "nhw":
        var, mean = torch.var_mean(torch.cat(rows, dim=1), dim=1, correction=0)
    else:
        mean = sum(row.mean(1) for row in rows) / len(rows)
        var = sum((row - mean[:, None]).square().mean(1) for row in rows) / len(rows)
    scale = conv.norm.weight / (var + conv.norm.eps).sqrt()
    shift = conv.norm.bias - mean * scale
    return [h * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1) for h in hs]
