"""Names of the models of the timm library that a `LegoTimm` is built around.

They are timm's own everywhere. Detectron2 sees them below the wrapper, `TimmBackbone`; torchvision
has none of these models:

    Detectron2                         timm
    timm.blocks.1.0.conv_pw.weight     blocks.1.0.conv_pw.weight

A model's names follow no pattern that all families share: a file is searched for those of the lego
that it is meant for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from gppf_d2.modeling.layouts.family import Family

PREFIX = "timm."
_LEGO = re.compile(rf"(?:stem|res[2-5]\.\d+)\.({re.escape(PREFIX)}.+)")
_PART = re.compile(rf"{re.escape(PREFIX)}\w+(?:\.\d+)?")


def stock_name(name: str) -> str | None:
    """The wrapper's name of a tensor of a `LegoTimm`, unit taken out; None for other legos'."""
    found = _LEGO.fullmatch(name)
    return found and found[1]


def parts_of(names: Iterable[str]) -> tuple[str, ...]:
    """The stem's modules and the stages ("timm.conv_stem", "timm.blocks.0") of the wrapper's names,
    in their order."""
    found = (_PART.match(name) for name in names)
    return tuple(dict.fromkeys(match[0] for match in found if match))


def find_prefix(names: Collection[str], wanted: Iterable[str]) -> str:
    """What stands before timm's names in a file.

    Args:
        names: of the file.
        wanted: of the lego's model, the wrapper's.

    Raises:
        ValueError: the model is not in it, or several times.
    """
    known = set(names)
    plain = [name.removeprefix(PREFIX) for name in wanted]
    found = [
        name.removesuffix(plain[0])
        for name in known
        if name == plain[0] or name.endswith(f".{plain[0]}")
    ]
    counts = {prefix: sum(prefix + name in known for name in plain) for prefix in found}
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) > 1:
        prefixes = ", ".join(map(repr, sorted(best)))
        raise ValueError(f"it holds several timm models, under the prefixes {prefixes}; keep one")
    if not best:
        raise ValueError(
            f"it has no {plain[0]!r}, which the lego's timm model has "
            f"(a few of its names: {', '.join(sorted(known)[:3]) or 'none'})"
        )
    return best[0]


def _to_layout(name: str, layout: str) -> str | None:
    if layout == "torchvision":
        return None
    return name if layout == "detectron2" else name.removeprefix(PREFIX)


def _from_layout(name: str, layout: str) -> str | None:
    if layout == "timm":
        return PREFIX + name
    return name if layout == "detectron2" and name.startswith(PREFIX) else None


TIMM = Family(
    word="timm model",
    size_key="model",
    anchors={},
    stages=(),
    owns=lambda name: name.startswith(PREFIX),
    size_of=lambda names: (),
    to_layout=_to_layout,
    from_layout=_from_layout,
)
