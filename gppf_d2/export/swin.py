"""A plain Swin leaves: its structure, and where the libraries compute the same.

Detectron2 pads a feature map to whole windows, then shifts; it shifts also where one window covers
the whole map. timm shifts before it pads, torchvision does not shift a map of one window. So the
outputs are equal in timm for images whose sides are multiples of 32 windows' tokens and with
``always_partition``, in torchvision for sides above that; Detectron2 itself has no such limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gppf_d2.export.facts import BackboneFacts, as_overrides, check_same_size
from gppf_d2.modeling.layouts import CONSTANTS, SWIN
from gppf_d2.modeling.lego.swin import PATCH, SIZES, STAGES

_TABLE = "layers.{}.blocks.0.attn.relative_position_bias_table"


@dataclass(frozen=True, kw_only=True)
class SwinFacts(BackboneFacts):
    """What a plain Swin computes, beyond its weights.

    Args:
        embed_dim: channels of p0.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of a window in tokens.
        mlp_ratio: hidden width of the MLPs over the channels.
        ape_side: side of the absolute position embedding in patches; None without one.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float
    ape_side: int | None

    @classmethod
    def read(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], pixels: Mapping[str, Any]
    ) -> SwinFacts:
        """See `BackboneFacts.read`; all of the structure shows in the tensors."""
        tables = [tensors[_TABLE.format(stage)] for stage in range(STAGES)]
        hidden, channels = tensors["layers.0.blocks.0.mlp.fc1.weight"].shape
        ape = tensors.get("absolute_pos_embed")
        facts = cls(
            embed_dim=channels,
            depths=SWIN.size_of(tensors),
            num_heads=tuple(table.shape[1] for table in tables),
            window_size=(int(len(tables[0]) ** 0.5) + 1) // 2,
            mlp_ratio=hidden / channels,
            ape_side=None if ape is None else ape.shape[-1],
            **pixels,
        )
        size = SIZES.get(settings.get("size", "T"), {})
        for key in ("embed_dim", "depths"):
            wanted = settings.get(key)
            check_same_size(
                "Swin", size.get(key) if wanted is None else wanted, getattr(facts, key), key
            )
        return facts

    @property
    def title(self) -> str:
        return SWIN.title(self.depths)

    @property
    def norm(self) -> str:
        return "LN"

    def fit(self, tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """torchvision keeps the index of the relative positions flat.

        Raises:
            ValueError: an absolute position embedding, which the other libraries' Swins lack.
        """
        if layout != "detectron2" and self.ape_side is not None:
            raise ValueError(
                f"The backbone was built with ape=True, and {layout}'s Swin has no absolute "
                "position embedding; export with --format detectron2."
            )
        if layout != "torchvision":
            return dict(tensors)
        return {n: t.flatten() if n.endswith(CONSTANTS) else t for n, t in tensors.items()}

    def recipe(self, layout: str) -> dict[str, Any]:
        """See `BackboneFacts.recipe`; adds for which image sides the outputs are equal."""
        values = super().recipe(layout)
        side = PATCH * 2 ** (STAGES - 1) * self.window_size
        if layout == "timm":
            values["model_args"] = {"always_partition": True, "strict_img_size": False}
            values["equal_for_image_sides"] = f"multiples of {side}"
        elif layout == "torchvision":
            values["equal_for_image_sides"] = f"more than {side}"
        return values

    def detectron2_recipe(self) -> dict[str, Any]:
        """For the zoo's LazyConfigs with FPN, whose ResNet it replaces; its YAMLs know no Swin."""
        bottom_up = "model.backbone.bottom_up"
        values: dict[str, Any] = {
            f"{bottom_up}._target_": "detectron2.modeling.backbone.swin.SwinTransformer",
            f"{bottom_up}.embed_dim": self.embed_dim,
            f"{bottom_up}.depths": list(self.depths),
            f"{bottom_up}.num_heads": list(self.num_heads),
            f"{bottom_up}.window_size": self.window_size,
            f"{bottom_up}.mlp_ratio": self.mlp_ratio,
            "model.backbone.in_features": [f"p{stage}" for stage in range(STAGES)],
        }
        if self.ape_side is not None:
            values[f"{bottom_up}.ape"] = True
            values[f"{bottom_up}.pretrain_img_size"] = self.ape_side * PATCH
        return {
            "yacs": None,
            "lazy": as_overrides(values | self.lazy_input()),
            "lazy_remove": [
                f"{bottom_up}.{key}" for key in ("stem", "stages", "out_features", "freeze_at")
            ],
        }

    def stock_model(self, library: str) -> str:
        """See `BackboneFacts.stock_model`."""
        values: dict[str, Any] = {
            "patch_size": [PATCH, PATCH] if library == "torchvision" else PATCH,
            "embed_dim": self.embed_dim,
            "depths": list(self.depths),
            "num_heads": list(self.num_heads),
            "window_size": [self.window_size] * 2 if library == "torchvision" else self.window_size,
            "mlp_ratio": self.mlp_ratio,
        }
        module, last = "torchvision.models", "\nmodel.head = torch.nn.Identity()"
        if library == "timm":
            module, last = "timm.models.swin_transformer", ""
            values |= {"num_classes": 0, **self.recipe(library)["model_args"]}
        arguments = "".join(f"    {key}={value},\n" for key, value in values.items())
        return (
            f"from {module} import SwinTransformer\n\nmodel = SwinTransformer(\n{arguments}){last}"
        )
