"""Image classification: global average pool of one feature and a linear layer (GPPF section 4.1).

Targets are hard (a label), mixed (several labels and their shares, from MixUp and CutMix) or soft
(probabilities over the classes, from a teacher); all may meet in one batch. Label -1 stands for "no
label". Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.image_batch import ImageHead

# labels of a mixed sample, and their shares
Mixture = tuple[Sequence[int], Sequence[float]]


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

    prediction_layers = ("linear",)

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
        self.in_feature, channels = self.choose_feature(in_feature)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1.")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else per sample the class probabilities.

        Args:
            samples: with "image" [3, H, W] and in training "label", an int or probabilities [K],
                or, from MixUp and CutMix, "labels" and "label_weights", several ints and shares.

        Returns:
            {"loss_cls"}, or a list of {"classes": [K]}.
        """
        features = self.backbone(self.preprocess(samples).tensor)[self.in_feature]
        logits = self.linear(self.dropout(features.mean(dim=(2, 3)))).float()
        if self.training:
            return {"loss_cls": self.loss(logits, [_label(sample) for sample in samples])}
        return [{"classes": probabilities} for probabilities in logits.softmax(1)]

    def loss(self, logits: Tensor, labels: Sequence[int | Tensor | Mixture]) -> Tensor:
        """Cross entropy, the mean over labelled samples; a zero with a graph where there is none.

        Mixed labels are never spread to [B, K]: with log-probabilities p and smoothing e a sample
        costs -(1 - e) sum_j w_j p[label_j] - e sum_j w_j mean(p), j over its labels. A share whose
        label is -1 counts neither in the sum nor in the number of samples.

        Args:
            logits: [B, K].
            labels: per sample an int in [-1, K), probabilities [K], or a mixture of ints, (labels,
                weights).
        """
        log_p = logits.log_softmax(1)
        classes, weights = _table(labels, logits)
        hit = (weights * log_p.gather(1, classes.clamp(min=0))).sum(1)
        share = weights.sum(1)
        soft = [index for index, label in enumerate(labels) if _is_soft(label)]
        if soft:
            targets = torch.stack([labels[index] for index in soft]).to(logits)
            rows = torch.tensor(soft, device=logits.device)
            hit = hit.index_put((rows,), (targets * log_p[rows]).sum(1))
            share[rows] = targets.sum(1)
        smoothing = self.label_smoothing
        losses = (1 - smoothing) * hit + smoothing * share * log_p.mean(1)
        total = share.sum()
        return -losses.sum() / torch.where(total > 0, total, 1)


def _label(sample: Mapping[str, Any]) -> int | Tensor | Mixture:
    if "label_weights" in sample:
        return sample["labels"], sample["label_weights"]
    return sample["label"]


def _is_soft(label: int | Tensor | Mixture) -> bool:
    return isinstance(label, Tensor) and label.dim() == 1


def _table(labels: Sequence[int | Tensor | Mixture], like: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and mixtures as classes [B, M] and weights [B, M], 0 where there is no label."""
    mixtures = [_mixture(label) for label in labels]
    longest = max(len(classes) for classes, _ in mixtures)
    classes = torch.tensor([[*row, *[-1] * (longest - len(row))] for row, _ in mixtures])
    weights = torch.tensor([[*row, *[0.0] * (longest - len(row))] for _, row in mixtures])
    return classes.to(like.device), (weights * (classes >= 0)).to(like)


def _mixture(label: int | Tensor | Mixture) -> Mixture:
    if _is_soft(label):
        return (-1,), (0.0,)
    return label if isinstance(label, tuple) else ((int(label),), (1.0,))
