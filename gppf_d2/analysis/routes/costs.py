"""What routes cost: parameters and FLOPs of every unit, counted by fvcore, and of what tasks share.

A route costs the units that it passes and what all routes pass (a Swin's norms of features). Every
unit is counted on its own, so units of one layer may differ in architecture. One multiply-add
counts as one FLOP, as fvcore counts; additions, activations and softmax do not count. Weights do
not matter, so the config of a run is enough and no checkpoint is read.

Legend: L layers, N units of a layer. NaN stands for FLOPs that cannot be counted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from omegaconf import OmegaConf
from torch import Tensor, nn

from gppf_d2.modeling.lego import Gate
from gppf_d2.modeling.lego.backbone import LegoBackbone

SIDE = 224  # pixels of the square image that FLOPs are counted for
# what fvcore passes over without a count, although it would weigh
_HEAVY = re.compile(r"(?!aten::|prim::)|prim::PythonOp|aten::.*(conv|mm|attention)")


@dataclass(frozen=True)
class BackboneCosts:
    """Parameters and FLOPs of a lego backbone's units.

    Args:
        layers: names of the L layers.
        parameters: of every unit, int [L, N].
        flops: of every unit for one image, float [L, N].
        shared_parameters: of what belongs to every route.
        shared_flops: of what belongs to every route, for one image.
        side: of the square image, in pixels.
        uncounted: why some FLOPs are NaN, half a sentence each.
    """

    layers: tuple[str, ...]
    parameters: np.ndarray
    flops: np.ndarray
    shared_parameters: int
    shared_flops: float
    side: int
    uncounted: tuple[str, ...] = ()

    @property
    def total_parameters(self) -> int:
        """Parameters of the whole backbone, all units of all layers."""
        return self.shared_parameters + int(self.parameters.sum())

    def fits(self, layers: Sequence[str], num_units: int) -> bool:
        """Whether routes through these layers and units are routes of this backbone."""
        return tuple(layers) == self.layers and num_units == self.parameters.shape[1]

    def route_flops(self, route: Sequence[int]) -> float:
        """FLOPs of one image along a route (one unit per layer), NaN where unknown."""
        return self.shared_flops + float(self.flops[np.arange(len(self.layers)), route].sum())

    def common_parameters(self, *routes: Sequence[int]) -> int:
        """Parameters that all of the routes use; of one route, those of the route."""
        return self._sum(np.logical_and.reduce([self._passed(route) for route in routes]))

    def used_parameters(self, routes: Iterable[Sequence[int]]) -> int:
        """Parameters that at least one of the routes uses."""
        return self._sum(np.logical_or.reduce([self._passed(route) for route in routes]))

    def own_parameters(self, route: Sequence[int], others: Iterable[Sequence[int]]) -> int:
        """Parameters that a route uses and none of the others."""
        others = list(others)
        return self.used_parameters([route, *others]) - (
            self.used_parameters(others) if others else 0
        )

    def _passed(self, route: Sequence[int]) -> np.ndarray:
        return np.arange(self.parameters.shape[1]) == np.asarray(route)[:, None]

    def _sum(self, units: np.ndarray) -> int:
        return self.shared_parameters + int(self.parameters[units].sum())


def costs_of_config(config: Mapping[str, Any], side: int = SIDE) -> BackboneCosts:
    """The costs of the backbone that a run's config describes.

    Args:
        config: the content of ``config.yaml``.
        side: of the square image, in pixels.

    Raises:
        ValueError: the config has no lego backbone, or it cannot be built and run here.
    """
    described = config.get("backbone")
    target = described.get("_target_") if isinstance(described, Mapping) else None
    if target is None:
        raise ValueError("The config describes no backbone.")
    try:
        kind = locate(target) if isinstance(target, str) else target
        if not (isinstance(kind, type) and issubclass(kind, LegoBackbone)):
            raise ValueError(f"{target} is no lego backbone")
        resolved = OmegaConf.create(dict(config)).backbone
        with torch.random.fork_rng(devices=[]):
            backbone = instantiate(resolved)
        return measure_costs(backbone, side, int(resolved.get("in_channels", 3)))
    except Exception as error:  # whatever a backbone of somebody else's raises
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"The backbone of the config cannot be measured: {reason}.") from error


def measure_costs(backbone: LegoBackbone, side: int = SIDE, channels: int = 3) -> BackboneCosts:
    """Count the parameters and FLOPs of every unit: one pass of one image per unit index.

    Args:
        backbone: any lego backbone; it is left in its mode.
        side: of the square image, in pixels.
        channels: of the image.

    Raises:
        ValueError: ``side`` is not positive.
    """
    if side < 1:
        raise ValueError(f"An image of side {side} cannot be measured; give a positive side.")
    names, count = backbone.layer_names, backbone.num_units
    parameters = np.array(
        [[_count(unit) for unit in layer.units] for layer in backbone.layers], dtype=np.int64
    )
    weight = next(backbone.parameters())
    image = torch.zeros(1, channels, side, side, dtype=weight.dtype, device=weight.device)
    flops, shared = np.full(parameters.shape, np.nan), [np.nan] * count
    reasons: dict[str, None] = {}
    training = backbone.training
    backbone.eval()
    try:
        for unit in range(count):
            try:
                flops[:, unit], shared[unit] = _count_flops(backbone, unit, image, reasons)
            except RuntimeError as error:  # an operator without a kernel here
                reasons[f"unit {unit} does not run here ({str(error).splitlines()[0]})"] = None
    finally:
        backbone.train(training)
    known = [value for value in shared if np.isfinite(value)]
    return BackboneCosts(
        layers=tuple(names),
        parameters=parameters,
        flops=flops,
        shared_parameters=_count(backbone) - int(parameters.sum()),
        shared_flops=known[0] if known else np.nan,
        side=side,
        uncounted=tuple(reasons),
    )


class _OneUnit(nn.Module):
    """A lego backbone on the route that takes the same unit in every layer."""

    def __init__(self, backbone: LegoBackbone, unit: int) -> None:
        super().__init__()
        self.backbone, self.unit = backbone, unit

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        gates = [Gate.single(self.unit) for _ in self.backbone.layer_names]
        return self.backbone([image], gates, list(self.backbone.output_shape()))[0][0]


def _count_flops(
    backbone: LegoBackbone, unit: int, image: Tensor, reasons: dict[str, None]
) -> tuple[list[float], float]:
    """FLOPs of one unit of every layer, and of what is in no unit."""
    analysis = FlopCountAnalysis(_OneUnit(backbone, unit), image)
    analysis.set_op_handle(
        **{
            "torchvision::deform_conv2d": _deformable_flops,
            "aten::scaled_dot_product_attention": _attention_flops,
        }
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        total = analysis.total()
        modules = [f"backbone.{name}.units.{unit}" for name in backbone.layer_names]
        counts = [float(analysis.total(module)) for module in modules]
        passed_over = [_heavy(analysis.unsupported_ops(module)) for module in modules]
        everywhere = analysis.unsupported_ops()
    rest = total - sum(counts)
    inside = sum(sum(operators.values()) for operators in passed_over)
    if sum(_heavy(everywhere).values()) > inside:
        rest = np.nan
    for operator in _heavy(everywhere):
        reasons[f"fvcore does not count {operator}"] = None
    return [np.nan if ops else n for ops, n in zip(passed_over, counts)], rest


def _heavy(operators: Mapping[str, int]) -> dict[str, int]:
    """Those of the operators that fvcore passed over whose FLOPs would weigh, or are unknown."""
    return {name: count for name, count in operators.items() if _HEAVY.match(name)}


def _deformable_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """The convolution, and 4 per sampled value, which fvcore takes for a bilinear sample."""
    image, weight, output = get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])
    samples = image[0] * image[1] * weight[2] * weight[3] * output[2] * output[3]
    return conv_flop_count(image, weight, output) + 4 * samples


def _attention_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Both products of attention: queries by keys, and weights by values."""
    queries, keys, values = (get_shape(one) for one in inputs[:3])
    return int(np.prod(queries[:-1])) * keys[-2] * (queries[-1] + values[-1])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
