"""The small decoder of our pixel heads: features of several strides, fused from the deepest up.

A lateral 1x1 convolution brings every feature to the same number of channels; the sum, enlarged
step by step, goes through two 3x3 convolutions and a predicting one at the finest stride.
"""

from __future__ import annotations

from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn


class TopDownDecoder:
    """Mixin of an ``ImageHead`` that has ``in_features``, finest first.

    The modules are the head's own: ``lateral``, ``fuse`` and ``predict``.
    """

    def add_decoder(self, channels: int, outputs: int, norm: str) -> None:
        """Make the modules; predictions start near 0.

        Args:
            channels: of the fused feature.
            outputs: channels of the prediction.
            norm: of the 3x3 convolutions, as in Detectron2.
        """
        shapes = self.backbone.output_shape()
        self.lateral = nn.ModuleDict(
            {name: nn.Conv2d(shapes[name].channels, channels, 1) for name in self.in_features}
        )
        self.fuse = nn.Sequential(
            *(
                Conv2d(
                    channels, channels, 3, padding=1, bias=not norm,
                    norm=get_norm(norm, channels), activation=F.relu,
                )
                for _ in range(2)
            )
        )  # fmt: skip
        self.predict = nn.Conv2d(channels, outputs, 3, padding=1)
        for conv in [*self.lateral.values(), *self.fuse]:
            weight_init.c2_msra_fill(conv)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """The prediction at the stride of the finest feature, [B, outputs, h, w] in float32 or
        better."""
        fused = None
        for name in reversed(self.in_features):
            lateral = self.lateral[name](features[name])
            if fused is not None:
                lateral = lateral + F.interpolate(
                    fused, lateral.shape[-2:], mode="bilinear", align_corners=False
                )
            fused = lateral
        prediction = self.predict(self.fuse(fused))
        return prediction if prediction.dtype.itemsize > 2 else prediction.float()
