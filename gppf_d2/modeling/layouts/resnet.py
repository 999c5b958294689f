"""Names of a plain ResNet's tensors in the layouts of Detectron2, torchvision and timm.

Depths 18 to 152, both directions:

    Detectron2                         torchvision, timm
    stem.conv1.weight                  conv1.weight
    stem.conv1.norm.running_mean       bn1.running_mean
    res3.0.conv2.weight                layer2.0.conv2.weight
    res3.0.conv2.norm.bias             layer2.0.bn2.bias
    res3.0.shortcut.weight             layer2.0.downsample.0.weight
    res3.0.shortcut.norm.weight        layer2.0.downsample.1.weight

timm's plain ResNets (not the ones with a deep stem or average pooling in the shortcut) carry
torchvision's names. "caffe2" is read only, through Detectron2's own conversion: it has an anchor
and no names here.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from gppf_d2.modeling.layouts.family import Family

# (has a third convolution, blocks of res2..res5) -> depth
_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}

_DETECTRON2 = re.compile(
    r"(?:stem|res(?P<stage>[2-5])\.(?P<block>\d+))\."
    r"(?:conv(?P<index>[123])|(?P<shortcut>shortcut))\.(?P<norm>norm\.)?(?P<leaf>\w+)"
)
_TORCHVISION = re.compile(
    r"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?"
    r"(?:(?P<kind>conv|bn)(?P<index>[123])|downsample\.(?P<shortcut>[01]))\.(?P<leaf>\w+)"
)


def _match(pattern: re.Pattern, name: str) -> re.Match | None:
    """The match, unless the stem is said to have more than one convolution."""
    found = pattern.fullmatch(name)
    return None if found and found["stage"] is None and found["index"] != "1" else found


def _owns(name: str) -> bool:
    return _match(_DETECTRON2, name) is not None


def _to_layout(name: str, layout: str) -> str:
    if layout == "detectron2":
        return name
    found = _match(_DETECTRON2, name)
    assert found is not None, f"{name} is no name of a ResNet"
    where = "" if found["stage"] is None else f"layer{int(found['stage']) - 1}.{found['block']}."
    if found["shortcut"]:
        return f"{where}downsample.{1 if found['norm'] else 0}.{found['leaf']}"
    return f"{where}{'bn' if found['norm'] else 'conv'}{found['index']}.{found['leaf']}"


def _from_layout(name: str, layout: str) -> str | None:
    if layout == "detectron2":
        return name if _owns(name) else None
    found = _match(_TORCHVISION, name)
    if found is None:
        return None
    where = "stem." if found["stage"] is None else f"res{int(found['stage']) + 1}.{found['block']}."
    part = "shortcut" if found["shortcut"] else f"conv{found['index']}"
    norm = "norm." if found["kind"] == "bn" or found["shortcut"] == "1" else ""
    return f"{where}{part}.{norm}{found['leaf']}"


def depth_of(names: Collection[str]) -> int:
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


RESNET = Family(
    word="ResNet",
    size_key="depth",
    anchors={
        "detectron2": ("stem.conv1.weight", "res2.0.conv1.weight"),
        "torchvision": ("conv1.weight", "layer1.0.conv1.weight"),
        "caffe2": ("conv1_w", "res2_0_branch2a_w"),
    },
    stages=("stem", "res2", "res3", "res4", "res5"),
    owns=_owns,
    size_of=depth_of,
    to_layout=_to_layout,
    from_layout=_from_layout,
)
