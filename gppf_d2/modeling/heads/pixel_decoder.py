"""The small decoder of our pixel heads: features of several strides become one map, convolutions
and a predicting layer follow.

Two fusions bring the features together:

    top_down  a lateral 1x1 convolution brings every feature to ``channels``; from the deepest one
              up the sum is enlarged to the next finer stride. The last layer is 3x3.
    sum       features of equal channels are enlarged to stride 4 and summed, which takes no
              parameters: P3 to P7 into P2 (MuST, Figure 3, section 3.2). The last layer is linear.

``sum`` enlarges by the ratio of the strides and cuts off what lies beyond the image: a cell of P7
covers 128 pixels, also where the batch ends in the middle of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

FUSIONS = ("top_down", "sum")
SUM_STRIDE = 4  # of level 2


class PixelDecoder:
    """Mixin of an ``ImageHead`` that has ``in_features``, finest first.

    The modules are the head's own: ``lateral`` (top_down only), ``fuse`` and ``predict``.
    """

    def add_decoder(
        self, channels: int, outputs: int, norm: str, fusion: str = "top_down", convs: int = 2
    ) -> None:
        """Make the modules; predictions start near 0.

        Args:
            channels: of the convolutions, and of what "top_down" fuses.
            outputs: channels of the prediction.
            norm: of the 3x3 convolutions, as in Detectron2.
            fusion: "top_down" or "sum".
            convs: 3x3 convolutions after the fusion, >= 0.

        Raises:
            ValueError: no such fusion or number, or features that cannot be summed.
        """
        if fusion not in FUSIONS:
            raise ValueError(f"Unknown fusion {fusion!r}; choose one of {', '.join(FUSIONS)}.")
        if convs < 0:
            raise ValueError(f"convs is {convs}; give the number of convolutions, 0 or more.")
        self.fusion, shapes = fusion, self.backbone.output_shape()
        shapes = {name: shapes[name] for name in self.in_features}
        convolutions: list[nn.Module] = []
        if fusion == "top_down":
            self.lateral = nn.ModuleDict(
                {name: nn.Conv2d(shape.channels, channels, 1) for name, shape in shapes.items()}
            )
            convolutions += self.lateral.values()
            width, side = channels, 3
        else:
            self._factors, width = _enlargements(shapes)
            side = 1
        self.fuse = nn.Sequential()
        for _ in range(convs):
            self.fuse.append(
                Conv2d(
                    width, channels, 3, padding=1, bias=not norm,
                    norm=get_norm(norm, channels), activation=F.relu,
                )
            )  # fmt: skip
            width = channels
        self.predict = nn.Conv2d(width, outputs, side, padding=side // 2)
        for conv in [*convolutions, *self.fuse]:
            weight_init.c2_msra_fill(conv)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """The prediction [B, outputs, h, w] in float32 or better, at the stride of the finest
        feature ("top_down") or at stride 4 ("sum")."""
        fused = self._top_down(features) if self.fusion == "top_down" else self._sum(features)
        prediction = self.predict(self.fuse(fused))
        return prediction if prediction.dtype.itemsize > 2 else prediction.float()

    def pixels(self, images: Tensor) -> Tensor:
        """The prediction for every pixel of a batch [B, 3, H, W]: [B, outputs, H, W]."""
        prediction = self.decode(self.backbone(images))
        return F.interpolate(prediction, images.shape[-2:], mode="bilinear", align_corners=False)

    def _top_down(self, features: Mapping[str, Tensor]) -> Tensor:
        fused = None
        for name in reversed(self.in_features):
            lateral = self.lateral[name](features[name])
            if fused is not None:
                lateral = lateral + F.interpolate(
                    fused, lateral.shape[-2:], mode="bilinear", align_corners=False
                )
            fused = lateral
        return fused

    def _sum(self, features: Mapping[str, Tensor]) -> Tensor:
        fused = None
        for name in self.in_features:
            x, factor = features[name], self._factors[name]
            if factor > 1:
                x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
            fused = x if fused is None else fused + x[..., : fused.shape[-2], : fused.shape[-1]]
        return fused


def _enlargements(shapes: Mapping[str, ShapeSpec]) -> tuple[dict[str, int], int]:
    """Factor of every feature to stride 4, and the channels that they share."""
    named = ", ".join(f"{name} {s.channels} at stride {s.stride}" for name, s in shapes.items())
    channels = {shape.channels for shape in shapes.values()}
    if len(channels) > 1:
        raise ValueError(
            f"fusion='sum' needs features of equal channels, but has {named}; take the outputs of "
            "an FPN, or fusion='top_down'."
        )
    if any(shape.stride % SUM_STRIDE for shape in shapes.values()):
        raise ValueError(
            f"fusion='sum' enlarges features to stride {SUM_STRIDE}, but has {named}; choose "
            f"in_features with strides that are multiples of {SUM_STRIDE}."
        )
    return {name: shape.stride // SUM_STRIDE for name, shape in shapes.items()}, channels.pop()
