"""A trunk that several label heads share, and the view through which each of them sees it.

`multi_label.MultiLabelHead` runs the trunk once for the whole batch. A label head, which may be any
Detectron2 meta-architecture, takes a `TrunkView` for its backbone: it pads the batch of its own
samples and calls the view, which answers with the trunk's features of these samples. The view has
no parameters and no state keys.

Shapes: B images of the whole batch, H W its padded size, b of them in a label head's own batch of
padded size h w, both at most the whole's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN
from torch import Tensor

_building: ContextVar[TrunkFeatures | None] = ContextVar("trunk", default=None)


class TrunkFeatures:
    """What views know of a trunk: its contract, and its features while a label head runs.

    No module, and without a reference to one: a copy of a head has views of the copy.

    Args:
        backbone: the trunk itself.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.shapes: dict[str, ShapeSpec] = dict(backbone.output_shape())
        self.size_divisibility: int = backbone.size_divisibility
        self.padding_constraints: dict[str, int] = dict(backbone.padding_constraints)
        self._given: _Given | None = None

    @contextmanager
    def building(self) -> Iterator[None]:
        """Views made in this block are views of this trunk."""
        reset = _building.set(self)
        try:
            yield
        finally:
            _building.reset(reset)

    @contextmanager
    def giving(
        self, features: Mapping[str, Tensor], size: tuple[int, int], rows: Sequence[int]
    ) -> Iterator[None]:
        """Views answer with these features in this block.

        Args:
            features: of the whole batch, name -> [B, C, H / stride, W / stride].
            size: (H, W).
            rows: the b images that the label head of this block has, ascending.
        """
        whole = next(iter(features.values()))
        some = len(rows) < len(whole)
        index = torch.tensor(rows, device=whole.device) if some else None
        self._given = _Given(features, size, len(rows), index)
        try:
            yield
        finally:
            self._given = None

    def look(self, names: Sequence[str], shape: Sequence[int]) -> dict[str, Tensor]:
        """Features of the rows, cropped to those that a batch [b, 3, h, w] would have.

        Args:
            names: of features.
            shape: of the label head's batch.

        Raises:
            RuntimeError: outside of `giving`, or for another batch than the label head's own.
        """
        if self._given is None:
            raise RuntimeError(
                "A TrunkView has features only while its MultiLabelHead runs; call that one."
            )
        (height, width), count = self._given.size, self._given.count
        if shape[0] != count or shape[-2] > height or shape[-1] > width:
            raise RuntimeError(
                f"A label head gave its TrunkView a batch of shape {list(shape)}; it must be its "
                f"{count} images, padded to at most {height} x {width} by its own "
                "size_divisibility and the view's."
            )
        found = {name: self._given.features[name] for name in names}
        if self._given.rows is not None:
            found = {name: feature[self._given.rows] for name, feature in found.items()}
        if tuple(shape[-2:]) == (height, width):
            return found
        return {name: self._corner(name, found[name], *shape[-2:]) for name in names}

    def _corner(self, name: str, feature: Tensor, height: int, width: int) -> Tensor:
        stride = self.shapes[name].stride
        return feature[..., : -(-height // stride), : -(-width // stride)]


@dataclass(frozen=True)
class _Given:
    """What views answer with: features of B images, (H, W), b, and which rows, None for all."""

    features: Mapping[str, Tensor]
    size: tuple[int, int]
    count: int
    rows: Tensor | None


class TrunkView(Backbone):
    """The trunk of a `MultiLabelHead`, as the ``backbone`` of one of its label heads.

    Images of several sizes: where a label head's own samples need less padding than the whole
    batch, they get the corner of the features that they cover. Near its lower and right edge it
    has seen the padding of the whole batch, as any image in a padded batch has.

    Args:
        out_features: names of the trunk's features to return, such as "p3".

    Raises:
        RuntimeError: built outside of a `MultiLabelHead`.
        ValueError: a feature that the trunk does not have.
    """

    def __init__(self, out_features: Sequence[str]) -> None:
        super().__init__()
        trunk = _building.get()
        if trunk is None:
            raise RuntimeError(
                "TrunkView needs a trunk: build it as part of a MultiLabelHead's heads."
            )
        self.out_features = [str(name) for name in out_features]
        unknown = [name for name in self.out_features if name not in trunk.shapes]
        if unknown or not self.out_features:
            raise ValueError(
                f"out_features={self.out_features}: the trunk gives {', '.join(trunk.shapes)}."
            )
        self._trunk = trunk

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the view's features."""
        return {name: self._trunk.shapes[name] for name in self.out_features}

    @property
    def size_divisibility(self) -> int:
        return self._trunk.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self._trunk.padding_constraints

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The trunk's features of the label head's samples, by name.

        Args:
            x: the label head's batch [b, 3, h, w]; only its shape counts.

        Raises:
            TypeError: several batches: a trunk runs once for all label heads.
            RuntimeError: outside of the `MultiLabelHead`'s forward, or another batch than its own.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"A TrunkView takes one batch, not a {type(x).__name__}; a head with several views "
                "of an image is a task of its own."
            )
        return self._trunk.look(self.out_features, x.shape)


class StagePyramid(FPN):
    """Detectron2's FPN that also gives the stages it is built on (MuST, Figure 3: C5 and P3 to P7).

    Arguments and state keys are FPN's. The bottom-up may give more stages than the pyramid takes.
    """

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of stages and levels."""
        return {**self.bottom_up.output_shape(), **super().output_shape()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Stages and levels by name, from one call of the bottom-up.

        Args:
            x: images [B, 3, H, W].
        """
        stages = self.bottom_up(x)
        return {**stages, **FPN.forward(_Answered(self, stages), x)}


class _Answered:
    """A pyramid to FPN's own forward whose bottom-up has run already."""

    def __init__(self, pyramid: StagePyramid, stages: dict[str, Tensor]) -> None:
        self._pyramid, self._stages = pyramid, stages

    def bottom_up(self, x: Tensor) -> dict[str, Tensor]:
        return self._stages

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pyramid, name)
