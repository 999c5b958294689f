"""Take one route out of a lego backbone as an ordinary one (GPPF section 3.3, sparse finetuning).

    <layer>.units.<k>.<rest>   ->   <layer>.<rest>        for k = route[layer], every other unit is
    dropped

The result is a stock Detectron2 backbone, 24 M parameters for ResNet-50, whatever N was (a Swin's
names are then the stock ones, `layouts.stock_name`); in evaluation it gives the outputs of the
routed lego backbone bit for bit. A route can also come from a file (`read_route_file`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.layouts import stock_name
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.controller import check_route

_UNIT = re.compile(r"(?P<layer>.+?)\.units\.(?P<unit>\d+)\.(?P<rest>.+)")


def extract_route(
    backbone: LegoBackbone, route: Sequence[int], out_features: Sequence[str] | None = None
) -> Backbone:
    """The plain backbone of a route, in the lego backbone's mode, dtype and device.

    A ResNet has BatchNorm2d, and units that are no stock blocks where the route passes such.

    Args:
        backbone: the lego backbone; it is not changed and shares no memory with the result.
        route: one unit per layer.
        out_features: of the plain backbone; default res2 to res5, or p0 to p3.

    Raises:
        ValueError: the route does not fit.
    """
    route = check_route(route, len(backbone.layer_names), backbone.num_units)
    plain = backbone.build_route(route, out_features)
    weight = next(backbone.parameters())
    plain.to(device=weight.device, dtype=weight.dtype).train(backbone.training)
    state = route_state_dict(backbone.state_dict(), route, backbone.layer_names)
    wanted = plain.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = set(wanted) - set(state) - counters  # FrozenBN has no such counter
    if out_features is None:
        assert not missing and not set(state) - set(wanted), "a route must fit the stock one"
    plain.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
    return plain


def route_state_dict(
    backbone_state: Mapping[str, Tensor],
    route: Sequence[int],
    layer_names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The plain state dict of a route, without building a model.

    Args:
        backbone_state: of the lego backbone, keys ``<layer>.units.<k>.<rest>``, in any order.
        route: one unit per layer.
        layer_names: names of the layers; by default those of the state, stem first, then in
            natural order.

    Raises:
        ValueError: no lego state, or the route does not fit.
    """
    found = {name: _UNIT.fullmatch(name) for name in backbone_state}
    units = [(match["layer"], int(match["unit"])) for match in found.values() if match]
    if not units:
        raise ValueError(
            "The state has no key <layer>.units.<k>.<name>: it is not that of a lego backbone."
        )
    layers = list(layer_names or layer_order(layer for layer, _ in units))
    chosen = dict(zip(layers, check_route(route, len(layers), 1 + max(k for _, k in units))))
    state: dict[str, Tensor] = {}
    for name, match in found.items():
        if match is None:
            state[name] = backbone_state[name]  # shared by all units
        elif chosen[match["layer"]] == int(match["unit"]):
            state[stock_name(f"{match['layer']}.{match['rest']}")] = backbone_state[name]
    return state


def layer_order(names: Iterable[str]) -> list[str]:
    """Distinct layer names with the stem first and numbers in numerical order."""

    def key(name: str) -> tuple:
        parts = re.findall(r"\d+|\D+", name)
        return name != "stem", [(p.isdigit(), int(p) if p.isdigit() else p) for p in parts]

    return sorted(set(names), key=key)


def read_route_file(
    path: str | os.PathLike,
    task: str | None = None,
    layers: Sequence[str] | None = None,
    num_units: int | None = None,
) -> list[int]:
    """The route that a file holds, one unit per layer, checked against what the file says.

    Args:
        path: ``routes.json`` of a run, the ``.json`` beside an exported backbone, or a JSON list of
            units.
        task: whose route; None where the file holds one.
        layers: names of the layers of the backbone it is for; None where that is not known.
        num_units: N of that backbone; None where that is not known.

    Raises:
        ValueError: no such file, not one of these, several tasks and none chosen, an unknown task,
            no route of as many layers as the file names, a unit that does not exist, a route
            through a backbone of another depth or N.
    """
    path = os.fspath(path)
    content = _read_json(path)
    if isinstance(content, list):
        known: dict[str | None, Any] = {None: content}
        content = {}
    elif isinstance(content, dict) and isinstance(content.get("tasks"), dict):
        known = {
            name: entry.get("route") if isinstance(entry, dict) else None
            for name, entry in content["tasks"].items()
        }
    elif isinstance(content, dict) and "route" in content:
        known = {content.get("task"): content["route"]}
    else:
        raise ValueError(
            f"{path!r} holds no route; give the routes.json of a run, the .json beside an exported "
            "backbone, or a JSON list with one unit per layer."
        )
    route = known[_choose_task(path, known, task)]
    _check_units(path, route, content)
    _check_fits(path, route, content, layers, num_units)
    return list(route)


def _read_json(path: str) -> Any:
    if not os.path.isfile(path):
        raise ValueError(f"There is no route file {path!r}; give the routes.json of a run.")
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"The route file {path!r} cannot be read as JSON ({reason}); give the routes.json of a "
            "run."
        ) from error


def _choose_task(path: str, known: Mapping[str | None, Any], task: str | None) -> str | None:
    names = ", ".join(sorted(name for name in known if name is not None))
    if task is not None:
        if task not in known:
            raise ValueError(
                f"Unknown task {task!r}; {path!r} has the routes of {names}."
                if names
                else f"{path!r} is one route without a task's name; leave out {task!r}."
            )
        return task
    if len(known) != 1:
        raise ValueError(f"{path!r} has the routes of {names or 'no task'}; choose one of them.")
    return next(iter(known))


def _check_units(path: str, route: Any, content: Mapping[str, Any]) -> None:
    if not isinstance(route, list) or not route or any(type(unit) is not int for unit in route):
        raise ValueError(
            f"The route in {path!r} is {route!r}; it must be a list with one unit (an integer) per "
            "layer."
        )
    layers, units = content.get("layers"), content.get("num_units")
    if isinstance(layers, list) and len(layers) != len(route):
        raise ValueError(
            f"The route in {path!r} has {len(route)} units and the file names {len(layers)} "
            "layers; the file is damaged, write it anew."
        )
    most = units if isinstance(units, int) else max(route) + 1
    wrong = [unit for unit in route if not 0 <= unit < most]
    if wrong:
        raise ValueError(
            f"The route in {path!r} names unit {wrong[0]}; "
            + (f"units go from 0 to {most - 1}." if isinstance(units, int) else "units start at 0.")
        )


def _check_fits(
    path: str,
    route: list[int],
    content: Mapping[str, Any],
    layers: Sequence[str] | None,
    num_units: int | None,
) -> None:
    """Compare the backbone that a route was found in with the one that it is for."""
    named = content.get("layers")
    if layers is not None and (
        len(route) != len(layers) or (named is not None and list(named) != list(layers))
    ):
        raise ValueError(
            f"The route in {path!r} passes {len(route)} layers ({_ends(named)}) and the backbone "
            f"has {len(layers)} ({_ends(layers)}); give a route of a backbone of this depth."
        )
    found = content.get("num_units", max(route) + 1)
    wrong = num_units is not None and (
        found > num_units or ("num_units" in content and found != num_units)
    )
    if wrong:
        raise ValueError(
            f"The route in {path!r} chooses among {found} units a layer and the backbone has "
            f"{num_units}; give a route that was learned with N = {num_units}."
        )


def _ends(layers: Sequence[str] | None) -> str:
    return f"{layers[0]} to {layers[-1]}" if layers else "without names"
