"""Take one route out of a lego backbone as an ordinary one (GPPF section 3.3, sparse finetuning).

    <layer>.units.<k>.<rest>   ->   <layer>.<rest>        for k = route[layer], every other unit is
    dropped

The result is a stock Detectron2 backbone, 24 M parameters for ResNet-50, whatever N was (a Swin's
names are then the stock ones, `layouts.stock_name`); in evaluation it gives the outputs of the
routed lego backbone bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

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
