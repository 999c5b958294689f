"""Residual units of other architectures than Detectron2's two stock blocks (GPPF section 5).

One layer may hold units of different kinds, and the task's controller chooses among them:

    bottleneck  the stock block of depths 50 and more        basic  the stock block of 18 and 34
    deformable  the stock block whose last 3x3 convolution samples at learned offsets
    depthwise   a depthwise 3x3 and a pointwise convolution

All end in  relu(branch + shortcut)  and keep the shapes of the layer. A deformable unit's offsets
start at 0, where it computes what the stock block computes, so plain weights load into it. Units
differ in their number of norms; every rank passes the norms of all units in the same order
(`chain`), the depthwise unit's in the order that its ``norm_order`` says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

Norm = Callable[[int], nn.Module | None]


class DeformableConv(Conv2d):
    """A convolution with a norm whose taps are moved by offsets that a second one predicts.

    Args:
        conv: whose settings, weight and norm it takes; kernel 3x3, no bias.
    """

    def __init__(self, conv: Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, bias=False, norm=conv.norm,
        )  # fmt: skip
        self.weight = conv.weight
        height, width = conv.kernel_size
        self.offset = nn.Conv2d(
            conv.in_channels, 2 * height * width, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation,
        )  # fmt: skip
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W'], sampled in the weight's precision under autocast."""
        offset = self.offset(x)
        weight = self.weight
        with torch.autocast(x.device.type, enabled=False):
            y = deform_conv2d(
                x.to(weight.dtype), offset.to(weight.dtype), weight,
                stride=self.stride, padding=self.padding, dilation=self.dilation,
            )  # fmt: skip
        y = y.to(x.dtype)
        y = y if self.norm is None else self.norm(y)
        return y if self.activation is None else self.activation(y)


class DeformableBottleneck(BottleneckBlock):
    """Detectron2's bottleneck with a deformable 3x3 convolution."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.conv2 = DeformableConv(self.conv2)


class DeformableBasic(BasicBlock):
    """Detectron2's basic block with a deformable second convolution."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.conv2 = DeformableConv(self.conv2)


class DepthwiseBlock(CNNBlockBase):
    """relu(pointwise(relu(depthwise(x))) + shortcut(x)), each convolution with its norm.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution and the shortcut.
        norm: from channels to a norm.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.depthwise = Conv2d(
            in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False,
            norm=norm(in_channels),
        )  # fmt: skip
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=False, norm=norm(out_channels))
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = Conv2d(
                in_channels, out_channels, 1, stride, bias=False, norm=norm(out_channels)
            )
            c2_msra_fill(self.shortcut)
        nn.init.kaiming_normal_(self.depthwise.weight, mode="fan_in", nonlinearity="relu")
        c2_msra_fill(self.pointwise)

    def norm_order(self) -> list[nn.Module]:
        """The norms as `forward` calls them."""
        convs = (self.depthwise, self.pointwise, self.shortcut)
        return [conv.norm for conv in convs if conv is not None]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        out = self.pointwise(F.relu_(self.depthwise(x)))
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


def unit_kinds(depth: int) -> dict[str, type[CNNBlockBase]]:
    """The kinds of residual units of a depth by name, the stock one first."""
    if depth < 50:
        return {"basic": BasicBlock, "deformable": DeformableBasic, "depthwise": DepthwiseBlock}
    return {
        "bottleneck": BottleneckBlock,
        "deformable": DeformableBottleneck,
        "depthwise": DepthwiseBlock,
    }
