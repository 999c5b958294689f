"""Image classification: global average pool of one feature and a linear layer (GPPF section 4.1).

Targets are hard (a label) or soft (probabilities over the classes, from MixUp, CutMix or a
teacher); both may meet in one batch. Label -1 stands for "no label".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.image_batch import ImageHead


class ClassificationHead(ImageHead):
    """Plain classification head.

    The images of a batch should have one size: smaller ones are padded, and the pool covers the
    padding.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone.
        num_classes: K.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_feature: the feature to pool; default the one of the largest stride.
        label_smoothing: in [0, 1], share of the target spread evenly over the classes.
        dropout: probability, before the linear layer.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str | None = None,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        shapes = backbone.output_shape()
        self.in_feature = in_feature or max(shapes, key=lambda name: shapes[name].stride)
        if self.in_feature not in shapes:
            raise ValueError(f"in_feature={in_feature!r}: the backbone gives {', '.join(shapes)}.")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1.")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(shapes[self.in_feature].channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else per sample the class probabilities.

        Args:
            samples: with "image" [3, H, W] and in training "label", an int or probabilities [K].

        Returns:
            {"loss_cls"}, or a list of {"classes": [K]}.
        """
        features = self.backbone(self.preprocess(samples).tensor)[self.in_feature]
        logits = self.linear(self.dropout(features.mean(dim=(2, 3)))).float()
        if self.training:
            return {"loss_cls": self.loss(logits, [sample["label"] for sample in samples])}
        return [{"classes": probabilities} for probabilities in logits.softmax(1)]

    def loss(self, logits: Tensor, labels: Sequence[int | Tensor]) -> Tensor:
        """Cross entropy, the mean over labelled samples; a zero with a graph where there is none.

        Args:
            logits: [B, K].
            labels: per sample an int in [-1, K), or probabilities [K].
        """
        targets, labelled = self._targets(labels, logits)
        losses = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses * labelled).sum() / labelled.sum().clamp(min=1)

    def _targets(self, labels: Sequence[int | Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [B] or [B, K], and 1 for labelled samples, else 0 [B]."""
        tensors = [torch.as_tensor(label) for label in labels]
        hard = [label.dim() == 0 for label in tensors]
        values = torch.stack(
            [t if is_hard else t.new_zeros(()) for t, is_hard in zip(tensors, hard)]
        )
        values = values.long().to(logits.device)
        labelled = (values >= 0).to(logits.dtype)
        values = values.clamp(min=0)
        if all(hard):
            return values, labelled
        targets = F.one_hot(values, self.num_classes).to(logits)
        for row, label, is_hard in zip(targets, tensors, hard):
            if not is_hard:
                row.copy_(label)
        return targets, labelled
