"""Names of a plain ResNet's tensors in the layouts of Detectron2, torchvision and timm.

Pure functions from strings to strings, both directions, for depths 18 to 152:

    Detectron2                         torchvision, timm
    stem.conv1.weight                  conv1.weight
    stem.conv1.norm.running_mean       bn1.running_mean
    res3.0.conv2.weight                layer2.0.conv2.weight
    res3.0.conv2.norm.bias             layer2.0.bn2.bias
    res3.0.shortcut.weight             layer2.0.downsample.0.weight
    res3.0.shortcut.norm.weight        layer2.0.downsample.1.weight

timm's plain ResNets (not the ones with a deep stem or average pooling in the shortcut) carry
torchvision's names. "caffe2" is read only, through Detectron2's own conversion, and has no entry
here but in :func:`detect_layout`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

LAYOUTS = ("detectron2", "torchvision", "timm")

# (has a third convolution, blocks of res2..res5) -> depth
_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}

# two names that together show a layout; what stands before both is the prefix
_ANCHORS = {
    "detectron2": ("stem.conv1.weight", "res2.0.conv1.weight"),
    "torchvision": ("conv1.weight", "layer1.0.conv1.weight"),
    "caffe2": ("conv1_w", "res2_0_branch2a_w"),
}

_DETECTRON2 = re.compile(
    r"(?:stem|res(?P<stage>[2-5])\.(?P<block>\d+))\."
    r"(?:conv(?P<index>[123])|(?P<shortcut>shortcut))\.(?P<norm>norm\.)?(?P<leaf>\w+)"
)
_TORCHVISION = re.compile(
    r"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?"
    r"(?:(?P<kind>conv|bn)(?P<index>[123])|downsample\.(?P<shortcut>[01]))\.(?P<leaf>\w+)"
)


def to_layout(name: str, layout: str) -> str:
    """Rename a tensor of a Detectron2 ResNet into another layout.

    Args:
        name: Detectron2's name, without prefix.
        layout: one of ``LAYOUTS``.

    Raises:
        ValueError: unknown layout, or not a name of a plain ResNet backbone.
    """
    _check(layout)
    found = _DETECTRON2.fullmatch(name)
    if found is None or (found["stage"] is None and found["index"] != "1"):
        raise ValueError(
            f"{name!r} is not a tensor of a Detectron2 ResNet; expected names like "
            "'stem.conv1.weight' or 'res2.0.conv1.norm.bias'."
        )
    if layout == "detectron2":
        return name
    where = "" if found["stage"] is None else f"layer{int(found['stage']) - 1}.{found['block']}."
    if found["shortcut"]:
        return f"{where}downsample.{1 if found['norm'] else 0}.{found['leaf']}"
    return f"{where}{'bn' if found['norm'] else 'conv'}{found['index']}.{found['leaf']}"


def from_layout(name: str, layout: str) -> str | None:
    """Rename a tensor of another layout into Detectron2's; the inverse of :func:`to_layout`.

    Args:
        name: the name in ``layout``, without prefix.
        layout: one of ``LAYOUTS``.

    Returns:
        Detectron2's name, or None where the tensor is not one of a plain ResNet backbone
        (``fc.weight``).

    Raises:
        ValueError: unknown layout.
    """
    _check(layout)
    found = (_DETECTRON2 if layout == "detectron2" else _TORCHVISION).fullmatch(name)
    if found is None or (found["stage"] is None and found["index"] != "1"):
        return None
    if layout == "detectron2":
        return name
    where = "stem." if found["stage"] is None else f"res{int(found['stage']) + 1}.{found['block']}."
    part = "shortcut" if found["shortcut"] else f"conv{found['index']}"
    norm = "norm." if found["kind"] == "bn" or found["shortcut"] == "1" else ""
    return f"{where}{part}.{norm}{found['leaf']}"


def detect_layout(names: Collection[str]) -> tuple[str, str]:
    """Find the layout of a state dict and the prefix of its backbone's names.

    Args:
        names: all names of the state dict.

    Returns:
        ("detectron2" | "torchvision" | "caffe2", prefix). timm reads as "torchvision".

    Raises:
        ValueError: no ResNet in it, or several.
    """
    known = set(names)
    found = [
        (layout, name[: -len(first)])
        for layout, (first, second) in _ANCHORS.items()
        for name in sorted(known)
        if name.endswith(first)
        and (len(name) == len(first) or name[: -len(first)].endswith("."))
        and name[: -len(first)] + second in known
    ]
    if len(found) == 1:
        return found[0]
    if found:
        prefixes = ", ".join(repr(prefix) for _, prefix in found)
        raise ValueError(f"it holds several ResNets, under the prefixes {prefixes}; keep one")
    raise ValueError(
        "it holds no plain ResNet in the layout of Detectron2, Caffe2, torchvision or timm "
        f"(a few of its names: {', '.join(sorted(known)[:3]) or 'none'})"
    )


def depth_of(names: Iterable[str]) -> int:
    """The depth of a ResNet (18, 34, 50, 101, 152) from Detectron2's names.

    Raises:
        ValueError: the numbers of blocks belong to none of them.
    """
    blocks: dict[str, set[str]] = {f"res{stage}": set() for stage in range(2, 6)}
    bottleneck = False
    for name in names:
        stage, _, rest = name.partition(".")
        if stage in blocks:
            block, _, part = rest.partition(".")
            blocks[stage].add(block)
            bottleneck |= part.startswith("conv3.")
    counts = tuple(len(found) for found in blocks.values())
    if (bottleneck, counts) not in _DEPTHS:
        raise ValueError(
            f"it has {counts} {'bottleneck' if bottleneck else 'basic'} blocks in res2 to res5, "
            f"which is no ResNet of depth {', '.join(map(str, _DEPTHS.values()))}"
        )
    return _DEPTHS[bottleneck, counts]


def is_bottleneck(names: Collection[str]) -> bool:
    """Whether Detectron2's names are those of bottleneck blocks (depth 50 and more)."""
    return "res2.0.conv3.weight" in names


def _check(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}.")
