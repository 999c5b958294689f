"""Names of a plain Swin transformer's tensors in the layouts of Detectron2, torchvision and timm.

Both directions; the authors' own files have Detectron2's names, with one ``norm`` at the end:

    Detectron2                         timm                               torchvision
    patch_embed.proj.weight            same                               features.0.0.weight
    patch_embed.norm.weight            same                               features.0.2.weight
    layers.1.blocks.0.attn.qkv.bias    same                               features.3.0.attn.qkv.bias
    layers.1.blocks.0.mlp.fc2.weight   same                               features.3.0.mlp.3.weight
    layers.0.downsample.norm.weight    layers.1.downsample.norm.weight    features.2.norm.weight
    norm3.weight                       norm.weight                        norm.weight

timm and torchvision normalise the last feature alone: norm0 to norm2 have no place there. The
index of the relative positions and the attention masks are constants; no layout carries them from
one file to another.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from gppf_d2.modeling.layouts.family import Family

CONSTANTS = (".relative_position_index", ".attn_mask")
_LAST = 3  # the stage whose norm timm and torchvision have

_DETECTRON2 = re.compile(
    r"patch_embed\.(?:proj|norm)\.\w+|absolute_pos_embed|norm(?P<norm>[0-3])\.\w+"
    r"|layers\.(?P<stage>[0-3])\.(?:blocks\.\d+|downsample)\."
    r"(?:norm[12]?\.\w+|reduction\.weight|mlp\.fc[12]\.\w+|attn\.(?:qkv|proj)\.\w+"
    r"|attn\.relative_position_(?:bias_table|index))"
)
_TO_TORCHVISION = (
    (r"patch_embed\.proj\.", lambda m: "features.0.0."),
    (r"patch_embed\.norm\.", lambda m: "features.0.2."),
    (r"layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."),
    (r"\.fc1\.", lambda m: ".0."),
    (r"\.fc2\.", lambda m: ".3."),
    (rf"^norm{_LAST}\.", lambda m: "norm."),
)
_FROM_TORCHVISION = (
    (r"^features\.0\.0\.", lambda m: "patch_embed.proj."),
    (r"^features\.0\.2\.", lambda m: "patch_embed.norm."),
    (r"^features\.([1357])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample."),
    (r"\.mlp\.0\.", lambda m: ".mlp.fc1."),
    (r"\.mlp\.3\.", lambda m: ".mlp.fc2."),
    (r"^norm\.", lambda m: f"norm{_LAST}."),
)

_LEGO = re.compile(r"(?:(?P<stem>stem)|p(?P<stage>[0-3])\.(?P<block>\d+))\.(?P<rest>.+)")


def stock_name(name: str) -> str:
    """Detectron2's name of a tensor of a lego Swin, unit taken out; other names as they are.

    Args:
        name: such as "p1.0.downsample.norm.weight" or "stem.proj.weight".
    """
    found = _LEGO.fullmatch(name)
    if found is None:
        return name
    stage, rest = found["stage"], found["rest"]
    if found["stem"]:
        if rest.startswith(("proj.", "norm.")):
            return f"patch_embed.{rest}"
        return rest if rest == "absolute_pos_embed" else name
    if rest.startswith("downsample."):
        return f"layers.{int(stage) - 1}.{rest}"
    return f"layers.{stage}.blocks.{found['block']}.{rest}"


def _owns(name: str) -> bool:
    return _DETECTRON2.fullmatch(name) is not None


def _renamed(name: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _to_layout(name: str, layout: str) -> str | None:
    if layout == "detectron2":
        return name
    norm = re.match(r"norm(\d)\.", name)
    if name.endswith(CONSTANTS) and layout == "timm" or norm and int(norm[1]) != _LAST:
        return None
    if layout == "torchvision":
        return None if name == "absolute_pos_embed" else _renamed(name, _TO_TORCHVISION)
    if norm:
        return name.replace(norm[0], "norm.")
    return re.sub(
        r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name
    )


def _from_layout(name: str, layout: str) -> str | None:
    if layout == "torchvision":
        if not name.startswith(("features.", "norm.")):
            return None
        name = _renamed(name, _FROM_TORCHVISION)
    elif layout == "timm":
        name = re.sub(
            r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name
        )
    name = re.sub(r"^norm\.", f"norm{_LAST}.", name)
    return name if _owns(name) else None


def depths_of(names: Collection[str]) -> tuple[int, ...]:
    """The numbers of blocks of the four stages, from Detectron2's names.

    Raises:
        ValueError: a stage without blocks, or blocks without a table of relative positions.
    """
    if not any(name.endswith(".relative_position_bias_table") for name in names):
        raise ValueError("it has no table of relative positions, which Swin V2 lacks and V1 has")
    blocks = {tuple(name.split(".")[1:4:2]) for name in names if ".blocks." in name}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(4))
    if 0 in depths:
        raise ValueError(f"it has {depths} blocks in layers.0 to layers.3, which is no Swin")
    return depths


SWIN = Family(
    word="Swin",
    size_key="depths",
    anchors={
        "detectron2": ("patch_embed.proj.weight", "layers.0.downsample.reduction.weight"),
        "timm": ("patch_embed.proj.weight", "layers.3.downsample.reduction.weight"),
        "torchvision": ("features.0.0.weight", "features.2.reduction.weight"),
    },
    stages=("patch_embed", *(f"layers.{i}" for i in range(4)), *(f"norm{i}" for i in range(4))),
    owns=_owns,
    size_of=depths_of,
    to_layout=_to_layout,
    from_layout=_from_layout,
)
