"""A fifth kind of task, written outside the package: count the objects of an image."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn


class CountMapper:
    """Reads an image of a detection dataset and its number of objects."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image = cv2.imread(record["file_name"])[:, :, ::-1]
        image = cv2.resize(image, (self.size, self.size)).transpose(2, 0, 1)
        return {
            "image": torch.from_numpy(image.copy()),
            "count": len(record["annotations"]),
            "height": self.size,
            "width": self.size,
        }


class CountHead(nn.Module):
    """Predicts the number of objects from the pooled res4 feature: res5 is not needed."""

    def __init__(self, backbone: nn.Module, pixel_mean: list[float], pixel_std: list[float]):
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(backbone.output_shape()["res4"].channels, 1)
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), False)

    def forward(self, samples: list[dict[str, Any]]) -> Any:
        device = self.pixel_mean.device
        images = torch.stack([sample["image"].to(device) for sample in samples])
        feature = self.backbone((images - self.pixel_mean) / self.pixel_std)["res4"]
        counts = self.linear(feature.mean((2, 3)))[:, 0]
        if not self.training:
            return [{"count": float(count)} for count in counts]
        truth = torch.tensor([float(s["count"]) for s in samples], device=device)
        return {"loss_count": F.smooth_l1_loss(counts, truth)}


class CountEvaluator(DatasetEvaluator):
    """Mean absolute error of the counts."""

    def reset(self) -> None:
        self.errors: list[float] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.errors += [abs(o["count"] - i["count"]) for i, o in zip(inputs, outputs)]

    def evaluate(self) -> OrderedDict | None:
        errors = [error for part in comm.gather(self.errors) for error in part]
        if not comm.is_main_process():
            return None
        return OrderedDict(count=OrderedDict(mae=sum(errors) / len(errors), images=len(errors)))
