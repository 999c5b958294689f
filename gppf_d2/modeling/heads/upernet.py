"""UperNet: pyramid pooling, top-down fusion and an auxiliary FCN, as in MMSegmentation's settings.

A ``sem_seg_head`` for Detectron2's ``SemanticSegmentor`` (GPPF sections 4.1 and D.1: auxiliary FCN
at the output of res4, weight 0.4). Layers, dropout and initial weights follow MMSegmentation; the
loss is the mean over labelled pixels (Detectron2's convention; MMSegmentation divides by all).

Shapes: B images on this rank, C ``channels``, h_s w_s the size of the feature with stride s, K
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from gppf_d2.modeling.heads.semantic import labelled_cross_entropy


class UperNetHead(nn.Module):
    """Semantic segmentation from all stages of a backbone.

    Args:
        input_shape: channels and stride of the features; all are used, by stride.
        num_classes: K.
        channels: C, of all layers but the auxiliary head's.
        pool_scales: sides of the pooled maps of the last feature.
        dropout: probability that a channel is dropped before a classifier, in both heads.
        norm: of all convolutions, as in Detectron2.
        auxiliary_feature: feature of the auxiliary FCN, which exists for training only; "" for
            none.
        auxiliary_channels: its width.
        auxiliary_weight: factor on its loss.
        loss_weight: factor on the main loss.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: an auxiliary feature that is not in ``input_shape``.
    """

    prediction_layers = ("predict", "auxiliary.1")

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        num_classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        norm: str = "BN",
        auxiliary_feature: str = "res4",
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        if auxiliary_feature and auxiliary_feature not in input_shape:
            raise ValueError(
                f"auxiliary_feature={auxiliary_feature!r}: the features are "
                f"{', '.join(input_shape)}; name one of them, or '' for no auxiliary head."
            )
        self.in_features = sorted(input_shape, key=lambda name: input_shape[name].stride)
        self.stride = input_shape[self.in_features[0]].stride
        self.auxiliary_feature, self.auxiliary_weight = auxiliary_feature, auxiliary_weight
        self.loss_weight, self.ignore_value = loss_weight, ignore_value
        *below, last = (input_shape[name].channels for name in self.in_features)
        self.pool = PyramidPooling(last, channels, pool_scales, norm)
        self.lateral = nn.ModuleList(_conv(width, channels, 1, norm) for width in below)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in below)
        self.fuse = _conv(len(self.in_features) * channels, channels, 3, norm)
        self.predict = _classifier(channels, num_classes, dropout)
        self.auxiliary = None
        if auxiliary_feature:
            shape = input_shape[auxiliary_feature]
            self.auxiliary_stride = shape.stride
            self.auxiliary = nn.Sequential(
                _conv(shape.channels, auxiliary_channels, 3, norm),
                _classifier(auxiliary_channels, num_classes, dropout),
            )

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Losses in training, else scores.

        Args:
            features: by name, [B, ., h_s, w_s].
            targets: labels [B, H, W], in training only.

        Returns:
            None and {"loss_sem_seg", "loss_sem_seg_aux"}, or logits [B, K, H, W] (sides rounded up
            to the smallest stride) and {}.
        """
        logits = self.predict(self.fused(features))
        if not self.training:
            return _enlarged(logits, self.stride), {}
        losses = {"loss_sem_seg": self.loss(logits, targets, self.stride) * self.loss_weight}
        if self.auxiliary is not None:
            auxiliary = self.auxiliary(features[self.auxiliary_feature])
            loss = self.loss(auxiliary, targets, self.auxiliary_stride)
            losses["loss_sem_seg_aux"] = loss * self.auxiliary_weight
        return None, losses

    def fused(self, features: Mapping[str, Tensor]) -> Tensor:
        """Pyramid pooling and top-down fusion: one map [B, C, h, w] at the smallest stride."""
        *below, last = (features[name] for name in self.in_features)
        laterals = [layer(x) for layer, x in zip(self.lateral, below)] + [self.pool(last)]
        for finer in reversed(range(len(below))):
            laterals[finer] = laterals[finer] + _resized(laterals[finer + 1], laterals[finer])
        maps = [layer(x) for layer, x in zip(self.smooth, laterals)] + laterals[-1:]
        return self.fuse(torch.cat([_resized(x, maps[0]) for x in maps], dim=1))

    def loss(self, logits: Tensor, targets: Tensor, stride: int) -> Tensor:
        """Cross entropy, the mean over labelled pixels; a zero with a graph where there is none.

        Args:
            logits: [B, K, h, w].
            targets: labels [B, H, W].
            stride: of the logits, in pixels of the labels.
        """
        height, width = targets.shape[-2:]
        logits = _enlarged(logits.float(), stride)[..., :height, :width]
        return labelled_cross_entropy(logits, targets, self.ignore_value)


class PyramidPooling(nn.Module):
    """The last feature beside its own averages over coarse grids, as one map.

    Args:
        in_channels: of the feature.
        channels: of the output and of every pooled map.
        scales: sides of the grids.
        norm: of the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, scales: Sequence[int], norm: str) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.pooled = nn.ModuleList(_conv(in_channels, channels, 1, norm) for _ in self.scales)
        self.fuse = _conv(in_channels + len(self.scales) * channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """From [B, ., h, w] to [B, C, h, w]."""
        maps = [x]
        for scale, layer in zip(self.scales, self.pooled):
            maps.append(_resized(_run(layer, F.adaptive_avg_pool2d(x, scale)), x))
        return self.fuse(torch.cat(maps, dim=1))


def _run(layer: Conv2d, x: Tensor) -> Tensor:
    """A layer, also where BatchNorm would see one value per channel and refuse to train.

    One image, pooled to one pixel, has no statistics: the running ones normalise it, and stay.
    """
    norm = layer.norm
    if not (
        isinstance(norm, nn.BatchNorm2d)
        and norm.training
        and norm.track_running_stats
        and x.shape[0] * x.shape[2] * x.shape[3] == 1
    ):
        return layer(x)
    x = F.conv2d(x, layer.weight, layer.bias)
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return F.relu(x)


def _conv(in_channels: int, channels: int, kernel: int, norm: str) -> Conv2d:
    layer = Conv2d(
        in_channels, channels, kernel, padding=kernel // 2, bias=not norm,
        norm=get_norm(norm, channels), activation=F.relu,
    )  # fmt: skip
    weight_init.c2_msra_fill(layer)
    return layer


def _classifier(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
