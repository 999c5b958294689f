"""BTS: depth from planes that every scale of a decoder lays through the scene.

Lee et al., "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation"
(arXiv 1907.10326), the head of GPPF's depth finetuning (sections 4.3.1 and D.2). The decoder climbs
from the deepest feature to the full size, a step of two at a time, and joins the features that it
passes. At 1/8 a dense pyramid of dilated convolutions looks around. At 1/8, 1/4 and 1/2 every cell
of k x k pixels (k = 8, 4, 2) gets a plane, whose depth at each pixel guides the finer steps:

    normal n(theta, phi), distance d:   depth(u, v) = d / (n_x u + n_y v + n_z)

with (u, v) in (-1/2, 1/2) the pixel's place in its cell. The last step predicts the depth itself.

Legend: B images, H W their sides (multiples of the deepest stride), C ``channels``, h w cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.metric_depth import MetricDepthHead

RATES = (3, 6, 12, 18, 24)  # dilations of the pyramid at 1/8
LARGEST_TILT = math.pi / 3  # of a plane against the image plane
LEAST_DEPTH_SHARE = 0.1  # a plane that a ray hardly meets is cut off at 1 / 0.1 of its distance
PYRAMID_STRIDE = 8


class BTSHead(MetricDepthHead):
    """The decoder of BTS on any backbone with features down to stride 16 or deeper.

    The shared backbone's finest feature has stride 4 (its stem ends with the pooling), where BTS
    also takes the stem's map of stride 2: a convolution of the image in the head stands in for it.
    Of features with the same stride all are joined.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        max_depth: largest depth in metres that can be predicted (times the focal factor).
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        min_depth: smallest true depth in metres that is learned from; BTS has 1 on KITTI.
        in_features: features to join; default all of the backbone.
        channels: C of the deepest step, a multiple of 16.
        detail_channels: of the image's own convolution at stride 2; 0 leaves it out.
        variance_focus: f of the silog loss, in [0, 1].
        focal_reference: see `MetricDepthHead`; BTS has 715.0873 on KITTI.
        norm: of the decoder, as in Detectron2; "" for none.

    Raises:
        ValueError: channels, or strides of features, that the decoder cannot be built from.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        max_depth: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        min_depth: float = 1e-3,
        in_features: Sequence[str] | None = None,
        channels: int = 512,
        detail_channels: int = 64,
        variance_focus: float = 0.85,
        focal_reference: float | None = None,
        norm: str = "BN",
    ) -> None:
        super().__init__(
            backbone, (min_depth, max_depth), pixel_mean, pixel_std, in_features=in_features,
            variance_focus=variance_focus, focal_reference=focal_reference,
        )  # fmt: skip
        if channels < 16 or channels % 16:
            raise ValueError(f"channels is {channels}; the decoder needs a multiple of 16.")
        shapes = backbone.output_shape()
        self._strides = {name: shapes[name].stride for name in self.in_features}
        deepest = _check_strides(self._strides)
        self.size_divisibility = deepest
        widths = dict.fromkeys(self._strides.values(), 0)
        for name, stride in self._strides.items():
            widths[stride] += shapes[name].channels
        self.detail = None
        if detail_channels:
            self.detail = nn.Sequential(
                nn.Conv2d(3, detail_channels, 7, 2, 3, bias=False),
                _norm(norm, detail_channels),
                nn.ReLU(),
            )
            widths[2] = widths.get(2, 0) + detail_channels

        self.steps = nn.ModuleDict()
        width, stride = widths[deepest], deepest
        while stride > 2:
            stride //= 2
            out = min(channels, channels * stride // 16)
            guides = int(stride < PYRAMID_STRIDE)
            step = _Step(width, widths.get(stride, 0) + guides, out, norm)
            self.steps[str(stride)], width = step, out
            if stride == PYRAMID_STRIDE:
                joined = out + widths.get(stride, 0)
                self.pyramid = _DensePyramid(out, joined, channels // 4, norm)
                width = channels // 4
        self.planes = nn.ModuleDict(
            {
                "8": _reduction(channels // 4, channels // 4, 3),
                "4": _reduction(channels // 4, channels // 8, 3),
                "2": _reduction(channels // 8, channels // 16, 3),
            }
        )
        fine = channels // 16
        self.rise = _up_convolution(channels // 8, fine)
        self.share = _reduction(fine, fine // 2, 1)
        self.finish = nn.Sequential(
            _convolution(fine + 4, fine, 3), nn.ELU(), _convolution(fine, 1, 3)
        )
        for module in self.children():
            if module is not backbone:
                module.apply(_initialise)

    def metres(self, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Depth in metres [B, H, W]; at the end of a step the planes' depths, in shares of the
        largest one, guide the next step."""
        skips: dict[int, list[Tensor]] = {}
        for name, stride in self._strides.items():
            skips.setdefault(stride, []).append(features[name])
        if self.detail is not None:
            skips.setdefault(2, []).append(self.detail(images))
        x = torch.cat(skips[self.size_divisibility], 1).relu()
        guides: list[Tensor] = []
        for key, step in self.steps.items():
            stride = int(key)
            coarse = [guides[-1][..., ::stride, ::stride]] if guides else []
            joined, x = step(x, [*skips.get(stride, ()), *coarse])
            if stride == PYRAMID_STRIDE:
                x = self.pyramid(joined, x)
            if stride <= PYRAMID_STRIDE:
                guides.append(plane_depth(plane_of(self.planes[key](x)), stride).unsqueeze(1))
        x = self.rise(x)
        shares = [self.share(x).sigmoid(), *(guide.to(x.dtype) for guide in reversed(guides))]
        share = self.finish(torch.cat([x, *shares], 1)).float().sigmoid()
        return share[:, 0] * self.depth_range[1]


def plane_of(raw: Tensor) -> Tensor:
    """Planes from the decoder's numbers.

    Args:
        raw: polar angle, azimuth and distance before their ranges, [B, 3, h, w].

    Returns:
        Unit normal (x, y, z) and distance in (0, 1), [B, 4, h, w], float32 or better.
    """
    raw = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
    tilt, azimuth, distance = raw.sigmoid().unbind(1)
    tilt, azimuth = tilt * LARGEST_TILT, azimuth * (2 * math.pi)
    across = tilt.sin()
    return torch.stack([across * azimuth.cos(), across * azimuth.sin(), tilt.cos(), distance], 1)


def plane_depth(plane: Tensor, side: int) -> Tensor:
    """Depth of every pixel by the plane of its cell (BTS, equation 3: local planar guidance).

    Args:
        plane: unit normal and distance, [B, 4, h, w].
        side: k, of a cell in pixels.

    Returns:
        [B, h k, w k], in units of the distance.
    """
    x, y, z, distance = (part[:, :, None, :, None] for part in plane.unbind(1))
    place = (torch.arange(side, dtype=plane.dtype, device=plane.device) + 0.5) / side - 0.5
    share = x * place + y * place[:, None, None] + z  # [B, h, k, w, k]
    depth = distance / share.clamp(min=LEAST_DEPTH_SHARE)
    return depth.flatten(3, 4).flatten(1, 2)


class _Step(nn.Module):
    """Twice the size, then joined with what is there at that size."""

    def __init__(self, width: int, skip_width: int, out: int, norm: str) -> None:
        super().__init__()
        self.up = nn.Sequential(_up_convolution(width, out), _norm(norm, out))
        self.join = nn.Sequential(_convolution(out + skip_width, out, 3), nn.ELU())

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """[B, c, h, w] to what is joined and to the result, both of size 2h x 2w."""
        x = self.up(x)
        joined = torch.cat([x, *(skip.to(x.dtype) for skip in skips)], 1)
        return joined, self.join(joined)


class _DensePyramid(nn.Module):
    """Dilated convolutions in a row, each of which sees the results of all before it."""

    def __init__(self, width: int, joined: int, out: int, norm: str) -> None:
        super().__init__()
        self.norm = _norm(norm, width)
        self.branches = nn.ModuleList()
        for i, rate in enumerate(RATES):
            seen = width if i == 0 else joined + i * out
            first = nn.Identity() if i == 0 else _norm(norm, seen)  # the step's result has its norm
            self.branches.append(
                nn.Sequential(
                    first,
                    nn.ReLU(),
                    _convolution(seen, 2 * out, 1),
                    _norm(norm, 2 * out),
                    nn.ReLU(),
                    _convolution(2 * out, out, 3, rate),
                )
            )
        self.gather = nn.Sequential(_convolution(width + len(RATES) * out, out, 3), nn.ELU())

    def forward(self, joined: Tensor, x: Tensor) -> Tensor:
        """What a step joined and its result, both at 1/8, to [B, out, h, w]."""
        x = self.norm(x)
        first, *others = self.branches
        found = [first(x)]
        for branch in others:
            found.append(branch(torch.cat([joined, *found], 1)))
        return self.gather(torch.cat([x, *found], 1))


def _convolution(width: int, out: int, side: int, dilation: int = 1) -> nn.Conv2d:
    padding = side // 2 * dilation
    return nn.Conv2d(width, out, side, padding=padding, dilation=dilation, bias=False)


def _up_convolution(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), _convolution(width, out, 3), nn.ELU())


def _reduction(width: int, first: int, out: int) -> nn.Sequential:
    """1x1 convolutions to ``first`` channels, half as many, ..., 8, and then ``out``."""
    layers: list[nn.Module] = []
    while first >= 8:
        layers += [_convolution(width, first, 1), nn.ELU()]
        width, first = first, first // 2
    return nn.Sequential(*layers, _convolution(width, out, 1))


def _norm(norm: str, width: int) -> nn.Module:
    return get_norm(norm, width) or nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)


def _check_strides(strides: Mapping[str, int]) -> int:
    """The deepest stride, a power of two of at least 16 like all others (of at least 2)."""
    deepest = max(strides.values())
    if deepest < 2 * PYRAMID_STRIDE or any(s < 2 or s & (s - 1) for s in strides.values()):
        named = ", ".join(f"{name} {stride}" for name, stride in strides.items())
        raise ValueError(
            f"BTS cannot be built on features with the strides {named}; they must be powers of two "
            f"from 2 on, the deepest at least {2 * PYRAMID_STRIDE}."
        )
    return deepest
