"""What the loader hands over: the samples of one task, rank and micro-step.

Samples are nests of dicts, lists and Detectron2 structures around tensors; pinning and copying to a
device walk through all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from detectron2.structures import Instances

from gppf_d2.data.window_masks import WindowMasks
from gppf_d2.tasks.stream import Position


@dataclass
class Batch:
    """The samples of one rank and micro-step.

    Args:
        task: name of the task.
        iteration: number of the iteration.
        micro_step: number of the micro-step in the iteration, from 0.
        samples: what the mapper and the batch transform made.
        positions: where in the task's stream they stand, also those of replaced samples.
        replaced: file names of corrupt samples in whose place others were drawn.
        reasons: the error of each replaced sample, aligned with ``replaced``.
        rank: the (virtual) rank that the batch is for.
    """

    task: str
    iteration: int
    micro_step: int
    samples: list
    positions: list[Position]
    replaced: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    rank: int = 0

    def pin_memory(self) -> Batch:
        """The batch with every tensor in page-locked memory, for copies that do not block."""
        return replace(self, samples=map_tensors(self.samples, torch.Tensor.pin_memory))

    def to(self, device: torch.device | str) -> Batch:
        """The batch with every tensor on a device; does not wait for copies from pinned memory."""
        samples = map_tensors(self.samples, lambda x: x.to(device, non_blocking=True))
        return replace(self, samples=samples)


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to every tensor of a nest of dicts, lists, tuples and Detectron2 structures.

    Everything else, polygons for example, is passed on as it is; the nest itself is not changed.
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Instances):
        fields = {key: map_tensors(item, function) for key, item in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, WindowMasks):
        return value.map_tensors(function)
    if isinstance(getattr(value, "tensor", None), torch.Tensor):
        twin = copy.copy(value)
        twin.tensor = function(value.tensor)
        return twin
    return value
