"""What the layouts of a family of backbones have in common: a table of functions on names.

A family is registered once, in ``layouts.FAMILIES``; reading weights, loading them into a lego and
exporting a route go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family of plain backbones. Names are without prefix; Detectron2's are the reference.

    Args:
        word: what it is called, "ResNet".
        size_key: the lego's argument that says how deep it is, "depth".
        anchors: layout -> two names that together show it; empty for a family without names that
            all its models have.
        stages: prefixes of Detectron2's names, in order, for reports; empty where they depend on
            the model.
        owns: whether a Detectron2 name belongs to the family.
        size_of: that argument's value, from Detectron2's names.
        to_layout: (Detectron2's name, layout) -> the name there, None where the layout has no place
            for it.
        from_layout: (name, layout) -> Detectron2's name, None where it is not part of the backbone.
    """

    word: str
    size_key: str
    anchors: Mapping[str, tuple[str, str]]
    stages: tuple[str, ...]
    owns: Callable[[str], bool]
    size_of: Callable[[Collection[str]], int | tuple[int, ...]]
    to_layout: Callable[[str, str], str | None]
    from_layout: Callable[[str, str], str | None]

    def title(self, size: int | tuple[int, ...]) -> str:
        """ "ResNet-50", "Swin-2-2-6-2"."""
        return "-".join(map(str, (self.word, *(size if isinstance(size, tuple) else (size,)))))
