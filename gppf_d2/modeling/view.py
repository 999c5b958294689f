"""The view through which a head reaches the shared backbone.

Any Detectron2 meta-architecture that takes a ``backbone`` is handed a `SharedBackbone`, usually as
FPN's ``bottom_up``. To the head it is a Backbone like any other; it has no parameters, buffers or
state keys, and the backbone itself is hidden from it as far as torch is concerned: ``.to()``,
``.eval()``, ``.parameters()`` and ``.state_dict()`` of a head never reach the core. The view's own
``.training`` decides gates, norm mode and checkpointing of its call. It finds model and task
through the context in which `MultiTaskModel.add_head` builds the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

if TYPE_CHECKING:
    from gppf_d2.modeling.multitask import MultiTaskModel

_building: ContextVar[tuple[MultiTaskModel, str] | None] = ContextVar("building", default=None)


@contextmanager
def building(model: MultiTaskModel, task: str) -> Iterator[None]:
    """Views made in this block belong to ``model`` and ``task``."""
    reset = _building.set((model, task))
    try:
        yield
    finally:
        _building.reset(reset)


class SharedBackbone(Backbone):
    """A view of the shared backbone that carries the route of its task.

    A training call with gradients is THE training call of its micro-step: exactly one is allowed,
    with one batch or a list of batches of different sizes. A training call without gradients, or
    of a deep copy (a momentum encoder), runs beside the graph: detached, with local statistics,
    without collectives, moving nothing.

    Args:
        out_features: names of the backbone's features to return, such as "res2".

    Raises:
        RuntimeError: built outside `MultiTaskModel.add_head`.
        ValueError: a feature that the backbone does not have.
    """

    def __init__(self, out_features: Sequence[str]) -> None:
        super().__init__()
        context = _building.get()
        if context is None:
            raise RuntimeError(
                "SharedBackbone needs a model: build it through MultiTaskModel.add_head "
                "or a Task config."
            )
        model, self.task = context
        self.out_features = model.backbone.check_features(out_features)
        self._owner = (model,)  # a tuple: nn.Module does not register it
        self._is_copy = False

    @property
    def model(self) -> MultiTaskModel:
        """The model whose backbone this is."""
        return self._owner[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedBackbone:
        """A copy of the view alone shares the core, detached; with its model it gets the copy's."""
        copy = SharedBackbone.__new__(SharedBackbone)
        memo[id(self)] = copy
        Backbone.__init__(copy)
        model = memo.get(id(self.model))
        copy._owner = (self.model if model is None else model,)
        copy._is_copy = self._is_copy or model is None
        copy.task, copy.out_features, copy.training = (
            self.task,
            list(self.out_features),
            self.training,
        )
        return copy

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the view's features."""
        shapes = self.model.backbone.output_shape()
        return {name: shapes[name] for name in self.out_features}

    @property
    def size_divisibility(self) -> int:
        return self.model.backbone.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.model.backbone.padding_constraints

    def extra_repr(self) -> str:
        return f"task={self.task}, out_features={self.out_features}"

    def forward(self, x: Tensor | list[Tensor]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Features by name, for a list of batches a list of them.

        Collective in training: all ranks must call it, or `MultiTaskModel.finish_micro_step`.

        Args:
            x: images [B, 3, H, W], or a list of such batches, of different sizes where wanted.

        Raises:
            RuntimeError: the second training call in one micro-step.
        """
        several = isinstance(x, (list, tuple))
        features = self.model.features(
            self.task,
            list(x) if several else [x],
            self.out_features,
            training=self.training,
            detached=self._is_copy,
        )
        return features if several else features[0]
