"""Lego Swin: Detectron2's own patch embedding and Swin blocks as units (GPPF section 4.2).

L = 1 + sum(depths) layers, 13 for Swin-T: the stem is the patch embedding, then one layer a block.
Patch merging is part of the first unit of the stage it leads into, as a ResNet's strided shortcut
is: a task that takes another unit there merges with that unit's weights, and a feature is the
mixed output of its stage's last layer. The norms of the features see that mixture, so they belong
to no unit: norm0 to norm3 are shared. A route thus fits a stock SwinTransformer one to one:

    stem.units.k.*                  patch_embed.*
    p1.0.units.k.downsample.*       layers.0.downsample.*
    p1.0.units.k.<anything else>    layers.1.blocks.0.<same>
    norm1.*                         norm1.*

Between layers go tensors [B, C, H, W] in channels_last memory, whose token view [B, H W, C] is
free. Norms are LayerNorm, so ranks exchange no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.swin import (
    PatchEmbed,
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
)
from torch import Tensor, nn

from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.layer import LegoLayer
from gppf_d2.modeling.lego.stochastic_depth import linear_rates, stochastic_depth

SIZES: dict[str, dict[str, int | tuple[int, ...]]] = {
    "T": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "S": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "B": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "L": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
PATCH = 4  # side of a patch in pixels
STAGES = 4


class LegoSwin(LegoBackbone):
    """A Swin transformer with N candidate units in every layer; features p0 to p3.

    Args:
        size: "T", "S", "B" or "L": the widths, depths and heads of the paper's models.
        num_units: N.
        embed_dim: channels of p0, doubled by each stage; None takes the size's.
        depths: blocks of each of the four stages; None takes the size's.
        num_heads: attention heads of each stage; None takes the size's.
        window_size: side of an attention window in tokens (7; the larger official models also 12).
        mlp_ratio: hidden width of a block's MLP over its channels.
        drop_path_rate: stochastic depth, 0 in the first block to this value in the last, linear.
        ape: add a learned absolute position embedding to the patches.
        pretrain_img_size: image side that the absolute position embedding is made for.
        in_channels: channels of the images.
        freeze_at: number of parts at the beginning that do not train: 1 the stem, 2 also p0, ...
        checkpoint: recompute each layer in backward (activation checkpointing).

    Raises:
        ValueError: unknown size, num_units < 1, or stages whose numbers do not fit together.
    """

    def __init__(
        self,
        size: str = "T",
        num_units: int = 2,
        *,
        embed_dim: int | None = None,
        depths: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        ape: bool = False,
        pretrain_img_size: int = 224,
        in_channels: int = 3,
        freeze_at: int = 0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(num_units, checkpointing=checkpoint)
        embed_dim, depths, num_heads = _sizes(size, embed_dim, depths, num_heads)
        self._architecture = {
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": num_heads,
            "window_size": window_size,
            "mlp_ratio": mlp_ratio,
            "ape": ape,
            "pretrain_img_size": pretrain_img_size,
            "in_chans": in_channels,
        }
        self.drop_path_rates = linear_rates(drop_path_rate, sum(depths))
        rates = iter(self.drop_path_rates)

        side = pretrain_img_size // PATCH if ape else None
        self.stem = LegoLayer([SwinStem(in_channels, embed_dim, side) for _ in range(num_units)])
        names, features = ["stem"], {}
        for stage in range(STAGES):
            channels = embed_dim * 2**stage
            layers = nn.ModuleList()
            for block in range(depths[stage]):
                unit = {
                    "dim": channels,
                    "num_heads": num_heads[stage],
                    "window_size": window_size,
                    "shift_size": window_size // 2 if block % 2 else 0,
                    "mlp_ratio": mlp_ratio,
                    "drop_path": next(rates),
                    "merges": stage > 0 and block == 0,
                }
                layers.append(LegoLayer([SwinUnit(**unit) for _ in range(num_units)]))
                names.append(f"p{stage}.{block}")
            self.add_module(f"p{stage}", layers)
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
            shape = ShapeSpec(channels=channels, stride=PATCH * 2**stage)
            features[f"p{stage}"] = (names[-1], shape)
        self.set_layers(names, features)
        self.apply(lambda module: SwinTransformer._init_weights(self, module))
        self.freeze(freeze_at)

    def complete(self, feature: str, x: Tensor) -> Tensor:
        """The norm of a feature, on the output of its last layer [B, C, H, W]."""
        norm = self.get_submodule(feature.replace("p", "norm"))
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()

    def build_plain(self, out_features: Sequence[str] | None = None) -> SwinTransformer:
        """A stock SwinTransformer of one route's architecture, freshly initialised.

        Args:
            out_features: of the stock backbone; default p0 to p3.
        """
        names = self.check_features(list(out_features or self.output_shape()))
        indices = sorted(int(name[1:]) for name in names)
        plain = SwinTransformer(**self._architecture, drop_path_rate=0.0, out_indices=indices)
        blocks = (block for stage in plain.layers for block in stage.blocks)
        for block, rate in zip(blocks, self.drop_path_rates):
            block.drop_path = stochastic_depth(rate)
        return plain

    def build_route(
        self, route: Sequence[int], out_features: Sequence[str] | None = None
    ) -> SwinTransformer:
        """The stock backbone of any route: all units are of one architecture."""
        return self.build_plain(out_features)


class SwinStem(PatchEmbed):
    """The patch embedding, with the absolute position embedding where there is one.

    Args:
        in_channels: channels of the images.
        embed_dim: channels C of the output.
        side: side of the absolute position embedding in patches; None for none.
    """

    def __init__(self, in_channels: int, embed_dim: int, side: int | None = None) -> None:
        super().__init__(PATCH, in_channels, embed_dim, nn.LayerNorm)
        self.absolute_pos_embed: nn.Parameter | None = None
        if side is not None:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] to patches [B, C, H/4, W/4], rounded up."""
        x = super().forward(x)
        if self.absolute_pos_embed is None:
            return x
        return x + F.interpolate(self.absolute_pos_embed, size=x.shape[-2:], mode="bicubic")


class SwinUnit(SwinTransformerBlock):
    """A Swin block, with the patch merging before it where a stage begins.

    Args:
        dim: channels C of the output.
        num_heads: attention heads.
        window_size: side of a window in tokens.
        shift_size: by how many tokens the windows are shifted.
        mlp_ratio: hidden width of the MLP over C.
        drop_path: probability with which a sample skips a residual branch.
        merges: merge patches first.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        mlp_ratio: float,
        drop_path: float,
        merges: bool,
    ) -> None:
        super().__init__(dim, num_heads, window_size, shift_size, mlp_ratio)
        self.drop_path = stochastic_depth(drop_path)
        self.downsample = PatchMerging(dim // 2) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same, merging [B, C/2, 2H, 2W] to [B, C, H, W]; sides round up."""
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        if self.downsample is not None:
            tokens = self.downsample(tokens, height, width)
            height, width = (height + 1) // 2, (width + 1) // 2
        mask = None
        if self.shift_size:
            table = self.attn.relative_position_bias_table
            windows = (-(-height // self.window_size), -(-width // self.window_size))
            mask = shifted_window_mask(
                windows, self.window_size, self.shift_size, table.device, table.dtype
            )
        self.H, self.W = height, width
        tokens = super().forward(tokens, mask)
        return tokens.transpose(1, 2).unflatten(2, (height, width))


@lru_cache(maxsize=8)  # the stages of two image sizes
@torch.inference_mode(False)
def shifted_window_mask(
    windows: tuple[int, int], side: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What is added to the attention of shifted windows: -100 between tokens that only the shift
    brought together.

    Args:
        windows: number of windows down and across.
        side: of a window in tokens.
        shift: by which the windows are shifted, in tokens.
        device: of the mask.
        dtype: of the mask.

    Returns:
        [windows, side^2, side^2] of 0 and -100.
    """

    def regions(count: int) -> Tensor:
        region = torch.zeros(count * side, device=device)
        region[-side:], region[-shift:] = 1, 2
        return region

    region = 3 * regions(windows[0])[:, None] + regions(windows[1])
    region = window_partition(region[None, :, :, None], side).flatten(1)
    apart = region[:, :, None] != region[:, None, :]
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, -100.0)


def _sizes(
    size: str,
    embed_dim: int | None,
    depths: Sequence[int] | None,
    num_heads: Sequence[int] | None,
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The size's numbers with what is given in their place, checked."""
    if size not in SIZES:
        raise ValueError(f"No Swin of size {size!r}; choose one of {', '.join(SIZES)}.")
    given = {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads}
    chosen = {**SIZES[size], **{key: value for key, value in given.items() if value is not None}}
    embed_dim, depths, num_heads = chosen["embed_dim"], chosen["depths"], chosen["num_heads"]
    depths, num_heads = tuple(map(int, depths)), tuple(map(int, num_heads))
    fits = len(depths) == len(num_heads) == STAGES and min(depths) > 0 and min(num_heads) > 0
    if not fits or any(embed_dim * 2**i % heads for i, heads in enumerate(num_heads)):
        raise ValueError(
            f"A Swin with embed_dim={embed_dim}, depths={depths}, num_heads={num_heads} cannot be "
            f"built; give {STAGES} positive depths and {STAGES} numbers of heads that divide "
            "embed_dim times 1, 2, 4 and 8."
        )
    return embed_dim, depths, num_heads
