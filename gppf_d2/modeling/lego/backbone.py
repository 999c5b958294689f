"""What every lego backbone shares: run its layers with a route, join what is not needed, name
features.

A backbone supplies named layers in order and says after which of them a feature is complete.
Layers hold units, so state keys are ``<layer>.units.<k>.<stock name>``. A training call passes ALL
layers on every rank: those that the caller does not need are joined with count 0, because another
rank may need them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.lego.controller import Gate
from gppf_d2.modeling.lego.layer import LegoLayer
from gppf_d2.modeling.lego.recompute import recomputed
from gppf_d2.modeling.lego.stochastic_depth import keep_all_branches


class LegoBackbone(Backbone):
    """A sequence of lego layers.

    Subclasses register their layers as modules, call `set_layers`, and say with `build_route` which
    plain backbone a route is.

    Args:
        num_units: N.
        checkpointing: recompute each layer in backward (activation checkpointing).

    Attributes:
        layer_names: names of the L layers, in order; also their module paths.
    """

    def __init__(self, num_units: int, checkpointing: bool = False) -> None:
        super().__init__()
        if num_units < 1:
            raise ValueError(f"num_units is {num_units}; a layer needs at least one unit.")
        self.num_units, self.checkpointing = num_units, checkpointing
        self.layer_names: tuple[str, ...] = ()
        self._ends: dict[str, int] = {}
        self._shapes: dict[str, ShapeSpec] = {}

    def set_layers(
        self, names: Sequence[str], features: Mapping[str, tuple[str, ShapeSpec]]
    ) -> None:
        """Declare the layers and the features.

        Args:
            names: module paths of the layers, in order.
            features: name of a feature -> (layer whose output it is, its channels and stride).
        """
        self.layer_names = tuple(names)
        self._ends = {feature: names.index(layer) + 1 for feature, (layer, _) in features.items()}
        self._shapes = {feature: shape for feature, (_, shape) in features.items()}

    @property
    def layers(self) -> list[LegoLayer]:
        """The L layers in order."""
        return [self.get_submodule(name) for name in self.layer_names]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return dict(self._shapes)

    def check_features(self, names: Sequence[str]) -> list[str]:
        """The names as a list.

        Raises:
            ValueError: none, or one that the backbone does not have.
        """
        unknown = [name for name in names if name not in self._ends]
        if unknown or not names:
            raise ValueError(
                f"out_features={list(names)}: choose one or more of {', '.join(self._ends)}."
            )
        return list(names)

    def complete(self, feature: str, x: Tensor) -> Tensor:
        """A feature from the output of its last layer [B, C, H, W]; here that output itself."""
        return x

    @abstractmethod
    def build_route(self, route: Sequence[int], out_features: Sequence[str] | None) -> Backbone:
        """A plain backbone with the architecture of a route, freshly initialised.

        Its state keys are ``layouts.stock_name`` of this backbone's, without the units.

        Args:
            route: one unit per layer.
            out_features: of the plain backbone; None takes the stock ones.
        """

    def freeze(self, stages: int) -> None:
        """Stop training the units of the first ``stages`` stages, the stem being the first.

        What units share (a Swin's norms of features) and the gates go on training. Residual blocks
        also turn their BatchNorm into FrozenBatchNorm, as Detectron2's do; no frozen unit has
        stochastic depth.

        Raises:
            ValueError: fewer than 0 or more than there are.
        """
        names = list(dict.fromkeys(name.partition(".")[0] for name in self.layer_names))
        if not 0 <= stages <= len(names):
            raise ValueError(
                f"freeze_at is {stages}; give 0 to freeze nothing, up to {len(names)} for all of "
                f"{', '.join(names)}."
            )
        for stage in names[:stages]:
            layers = [n for n in self.layer_names if n.partition(".")[0] == stage]
            for unit in (u for name in layers for u in self.get_submodule(name).units):
                if hasattr(unit, "freeze"):
                    unit.freeze()
                keep_all_branches(unit)
                unit.requires_grad_(False)

    def forward(
        self,
        xs: list[Tensor],
        gates: Sequence[Gate],
        out_features: Sequence[str],
        token: Tensor | None = None,
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        """Run the layers that the features need, and in training join the others.

        Collective in training with a statistics group: all ranks must call, or `join`.

        Args:
            xs: batches [B_i, 3, H_i, W_i]; several are the views of a multi-view task.
            gates: one per layer.
            out_features: names of the wanted features.
            token: start of the chain of norm positions.

        Returns:
            Per batch its features by name, and the token.
        """
        assert len(gates) == len(self.layer_names), (
            f"{len(gates)} gates for {len(self.layer_names)} layers"
        )
        needed = max(self._ends[name] for name in out_features)
        outputs: list[dict[str, Tensor]] = [{} for _ in xs]
        for done, (layer, gate) in enumerate(zip(self.layers[:needed], gates), start=1):
            xs, token = self._run(layer, xs, gate, token)
            for name in out_features:
                if self._ends[name] == done:
                    for output, x in zip(outputs, xs):
                        output[name] = self.complete(name, x)
        if self.training:
            token = self.join(token, first=needed)
        return outputs, token

    def join(self, token: Tensor | None = None, first: int = 0) -> Tensor | None:
        """Take part in the collectives of the layers from ``first`` on with count 0.

        Collective in training with a statistics group: all ranks must call, or run the layers.
        """
        for layer in self.layers[first:]:
            token = layer.join(token)
        return token

    def _run(
        self, layer: LegoLayer, xs: list[Tensor], gate: Gate, token: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return layer(xs, gate, token)
        return recomputed(
            lambda: layer(xs, gate, token, recompute=False),
            layer,
            preserve_rng_state=layer.is_random,
        )
