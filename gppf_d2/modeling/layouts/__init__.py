"""Names of a plain backbone's tensors in the layouts of Detectron2, torchvision and timm.

Pure functions from strings to strings. Each family of backbones has a module with its tables
(`resnet`, `swin`, `timm`); Detectron2's names are the reference, and tell the families apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gppf_d2.modeling.layouts.family import Family
from gppf_d2.modeling.layouts.resnet import RESNET, depth_of, is_bottleneck
from gppf_d2.modeling.layouts.swin import CONSTANTS, SWIN
from gppf_d2.modeling.layouts.swin import stock_name as stock_swin_name
from gppf_d2.modeling.layouts.timm import TIMM, find_prefix, parts_of
from gppf_d2.modeling.layouts.timm import stock_name as stock_timm_name

__all__ = [
    "CONSTANTS",
    "FAMILIES",
    "LAYOUTS",
    "RESNET",
    "SWIN",
    "TIMM",
    "Family",
    "depth_of",
    "detect",
    "detect_layout",
    "family_of",
    "find_prefix",
    "from_layout",
    "is_bottleneck",
    "parts_of",
    "stock_name",
    "to_layout",
]

LAYOUTS = ("detectron2", "torchvision", "timm")
FAMILIES = (RESNET, SWIN, TIMM)


def stock_name(name: str) -> str:
    """Detectron2's name of a tensor of a lego backbone, unit taken out.

    Args:
        name: such as "res2.0.conv1.weight", "p1.0.downsample.norm.weight" or
            "res2.0.timm.blocks.1.0.conv_pw.weight".
    """
    return stock_timm_name(name) or stock_swin_name(name)


def family_of(names: Iterable[str]) -> Family:
    """The family that most of Detectron2's names belong to.

    Args:
        names: without prefix; some may be of neither.

    Raises:
        ValueError: none of them belongs to a family.
    """
    names = list(names)
    count, _, family = max((sum(map(f.owns, names)), -i, f) for i, f in enumerate(FAMILIES))
    if not count:
        raise ValueError(
            f"it has no tensor of a {' or '.join(f.word for f in FAMILIES)} "
            f"(a few of its names: {', '.join(sorted(names)[:3]) or 'none'})"
        )
    return family


def to_layout(name: str, layout: str) -> str | None:
    """Rename a tensor of a Detectron2 backbone into another layout.

    Args:
        name: Detectron2's name, without prefix.
        layout: one of ``LAYOUTS``.

    Returns:
        The name there; None where that layout has no place for it (a Swin's norm0 in timm).

    Raises:
        ValueError: unknown layout, or not a name of a plain backbone.
    """
    _check(layout)
    family = next((family for family in FAMILIES if family.owns(name)), None)
    if family is None:
        raise ValueError(
            f"{name!r} is not a tensor of a Detectron2 ResNet or Swin or of a TimmBackbone; "
            "expected names like 'stem.conv1.weight', 'res2.0.conv1.norm.bias', "
            "'layers.0.blocks.0.norm1.bias' or 'timm.conv_stem.weight'."
        )
    return family.to_layout(name, layout)


def from_layout(name: str, layout: str, family: Family = RESNET) -> str | None:
    """Rename a tensor of another layout into Detectron2's; the inverse of :func:`to_layout`.

    Args:
        name: the name in ``layout``, without prefix.
        layout: one of ``LAYOUTS``.
        family: of the backbone.

    Returns:
        Detectron2's name, or None where the tensor is not one of a plain backbone (``fc.weight``).

    Raises:
        ValueError: unknown layout.
    """
    _check(layout)
    return family.from_layout(name, layout)


def detect_layout(names: Collection[str]) -> tuple[str, str]:
    """Find the layout of a state dict and the prefix of its backbone's names.

    Args:
        names: all names of the state dict.

    Returns:
        ("detectron2" | "torchvision" | "timm" | "caffe2", prefix). timm's ResNets read as
        "torchvision", the authors' Swin files as "detectron2".

    Raises:
        ValueError: no plain backbone in it, or several.
    """
    found = detect(names)
    return found[1:]


def detect(names: Collection[str]) -> tuple[Family, str, str]:
    """Like :func:`detect_layout`, with the family before layout and prefix."""
    known = set(names)
    found = [
        (family, layout, name[: -len(first)])
        for family in FAMILIES
        for layout, (first, second) in family.anchors.items()
        for name in sorted(known)
        if name.endswith(first)
        and (len(name) == len(first) or name[: -len(first)].endswith("."))
        and name[: -len(first)] + second in known
    ]
    if len(found) == 1:
        return found[0]
    if found:
        words = ", ".join(f"{family.word}s" for family in dict.fromkeys(f for f, _, _ in found))
        prefixes = ", ".join(repr(prefix) for *_, prefix in found)
        raise ValueError(f"it holds several {words}, under the prefixes {prefixes}; keep one")
    raise ValueError(
        "it holds no plain ResNet or Swin in the layout of Detectron2, Caffe2, torchvision or timm "
        "(whose other models fit a LegoTimm alone) "
        f"(a few of its names: {', '.join(sorted(known)[:3]) or 'none'})"
    )


def _check(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}.")
