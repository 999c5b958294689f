"""The route of a task, read from a lego model, the state dict of one or a file; its plain tensors.

Works on names and tensors alone, so that a checkpoint can be exported without building its model:
``backbone.<layer>.units.<k>.<name>`` and ``controllers.<task>`` [L layers, N units] of logits, in
the order stem, res2.0, res2.1, ..., res5.2 (or stem, p0.0, ..., p3.1).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gppf_d2.export.checkpoint import LegoCheckpoint
from gppf_d2.modeling.layouts import family_of
from gppf_d2.modeling.lego.controller import undecided_layers
from gppf_d2.modeling.lego.route import layer_order, read_route_file, route_state_dict
from gppf_d2.modeling.multitask import MultiTaskModel

_UNIT = re.compile(r"backbone\.(?P<layer>.+?)\.units\.")


@dataclass(frozen=True, kw_only=True)
class Route:
    """The route of one task; all sequences have one entry per layer.

    Args:
        task: its name; None where a route file does not say.
        layers: names, in order.
        units: the chosen unit.
        probabilities: of the chosen unit, softmax of the controller's logits (1 for a fixed route);
            empty where they are not known.
        undecided: layers in which the second unit is almost as probable: their argmax is arbitrary.
        num_units: units of a layer that it chooses among; None where that is not known.
        file: name of the route file that it is from, or None.
    """

    task: str | None
    layers: tuple[str, ...]
    units: tuple[int, ...]
    probabilities: tuple[float, ...]
    undecided: tuple[str, ...] = ()
    num_units: int | None = None
    file: str | None = None


def route_of(source: MultiTaskModel | Mapping[str, Tensor], task: str) -> Route:
    """The route of one task: the most probable unit of every layer, or a model's fixed route.

    Args:
        source: a model, or the state dict of one (which holds no fixed routes).
        task: whose controller.

    Raises:
        ValueError: unknown task, or a controller that does not fit the layers.
    """
    if isinstance(source, MultiTaskModel):
        state, fixed = source.state_dict(), source.fixed_routes.get(task)
    else:
        state, fixed = source, None
    tasks = [name.removeprefix("controllers.") for name in state if name.startswith("controllers.")]
    if task not in tasks:
        raise ValueError(
            f"Unknown task {task!r}; the checkpoint has {', '.join(sorted(tasks)) or 'none'}."
        )
    layers = layer_names(state)
    logits = state[f"controllers.{task}"].detach().double()
    if logits.dim() != 2 or logits.shape[0] != len(layers):
        raise ValueError(
            f"The controller of {task!r} has the shape {tuple(logits.shape)} and the backbone "
            f"{len(layers)} layers; the checkpoint is damaged."
        )
    if fixed is not None:
        certain = (1.0,) * len(layers)
        return Route(
            task=task, layers=layers, units=tuple(fixed), probabilities=certain,
            num_units=logits.shape[1],
        )  # fmt: skip
    return _decided(task, layers, logits.argmax(dim=1).tolist(), torch.softmax(logits, dim=1))


def _decided(task: str, layers: tuple[str, ...], units: list[int], shares: Tensor) -> Route:
    """A route with the probabilities [L, N] that it was taken by."""
    return Route(
        task=task,
        layers=layers,
        units=tuple(units),
        probabilities=tuple(shares.amax(dim=1).tolist()),
        undecided=tuple(layers[index] for index in undecided_layers(shares)),
        num_units=shares.shape[1],
    )


def route_in_file(
    state: Mapping[str, Tensor], file: str | os.PathLike, task: str | None = None
) -> Route:
    """The route of a file through the backbone of a state dict.

    Args:
        state: of a ``MultiTaskModel``.
        file: see `read_route_file`.
        task: whose route; None where the file holds one.

    Raises:
        ValueError: as `read_route_file`.
    """
    layers = layer_names(state)
    units = next(t.shape[-1] for name, t in state.items() if name.startswith("controllers."))
    return Route(
        task=task,
        layers=layers,
        units=tuple(read_route_file(file, task, layers, units)),
        probabilities=(),
        num_units=units,
        file=os.path.basename(file),
    )


def as_learned(route: Route, checkpoint: LegoCheckpoint) -> Route:
    """For an extracted checkpoint, of one unit a layer, the route that a dynamic run learned.

    The probabilities come from the run's ``routes.json``, where that still says the same route.
    """
    units = checkpoint.extracted
    if units is None or len(units) != len(route.layers):
        return route
    entry = ((checkpoint.beside("routes.json") or {}).get("tasks") or {}).get(route.task) or {}
    if entry.get("route") != list(units):
        return replace(route, units=units, probabilities=(), undecided=(), num_units=None)
    return _decided(route.task, route.layers, list(units), torch.tensor(entry["probabilities"]))


def layer_names(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The lego layers of a model's state dict in their natural order: stem, res2.0, res2.1, ..."""
    return tuple(layer_order(match["layer"] for name in state if (match := _UNIT.match(name))))


def plain_state(state: Mapping[str, Tensor], route: Route) -> dict[str, Tensor]:
    """The tensors of a route under the names of a stock Detectron2 backbone.

    Args:
        state: of a ``MultiTaskModel``.
        route: one of its routes.

    Raises:
        ValueError: units that are no blocks of a plain backbone.
    """
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in state.items()
        if name.startswith("backbone.")
    }
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in route_state_dict(backbone, route.units, route.layers).items()
    }
    try:
        family = family_of(tensors)
    except ValueError as error:
        raise ValueError(f"The backbone has no plain export: {error}.") from None
    strange = [name for name in tensors if not family.owns(name)]
    if strange:
        layers = [n for n in route.layers if any(name.startswith(f"{n}.") for name in strange)]
        raise ValueError(
            f"The route of {route.task!r} passes units that no plain {family.word} has (such as "
            f"{strange[0]!r}) in {', '.join(layers) or 'the backbone'}; export a task whose route "
            "has stock units alone, or take the route inside Python with lego.extract_route."
        )
    return tensors
