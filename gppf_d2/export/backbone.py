"""Take one task's route out of a lego checkpoint and write it as a plain backbone.

    checkpoint ──► argmax route of the task ──► plain state dict ──► names of the target layout
               ──► weights file + ``<weights file>.json``: what they are, the settings they need
                                + ``<weights file>.md``: the same for people, a model card

For Detectron2 the names are those of a bare backbone with ``matching_heuristics`` on, as the zoo's
ImageNet weights: the checkpointer then finds their place in any stock model (FPN's bottom_up,
RetinaNet, C4). torchvision and timm get their flat state dict without the classifier; what they
cannot compute (a stride in the 1x1 convolution) is refused for them. All files are written under
temporary names and renamed, the weights last.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gppf_d2.export.card import model_card
from gppf_d2.export.checkpoint import LegoCheckpoint, run_facts, section
from gppf_d2.export.facts import BackboneFacts, pixel_facts
from gppf_d2.export.loading import snippets
from gppf_d2.export.resnet import ResNetFacts
from gppf_d2.export.route import Route, as_learned, plain_state, route_in_file, route_of
from gppf_d2.export.swin import SwinFacts
from gppf_d2.export.timm import TimmFacts
from gppf_d2.modeling.layouts import (
    CONSTANTS,
    LAYOUTS,
    RESNET,
    SWIN,
    TIMM,
    Family,
    family_of,
    to_layout,
)
from gppf_d2.modeling.weight_files import METADATA_KEY

FACTS: dict[Family, type[BackboneFacts]] = {
    RESNET: ResNetFacts, SWIN: SwinFacts, TIMM: TimmFacts,
}  # fmt: skip
SUFFIXES = {
    "detectron2": (".pth", ".pkl", ".safetensors"),
    "torchvision": (".pth", ".safetensors"),
    "timm": (".pth", ".safetensors"),
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Args:
        output: the weights file; ``metadata_file`` lies beside it.
        metadata_file: the JSON with metadata and overrides.
        card_file: the model card.
        metadata: content of the JSON.
        route: the exported route.
        num_parameters: scalars in the weights file, without running statistics.
    """

    output: Path
    metadata_file: Path
    card_file: Path
    metadata: Mapping[str, Any]
    route: Route
    num_parameters: int

    def __str__(self) -> str:
        source = f"task {self.route.task!r}" if self.route.task else "a route file"
        lines = [
            f"{self.metadata['architecture']} of {source} "
            f"({self.num_parameters / 1e6:.1f} M parameters, {self.metadata['layout']} layout): "
            f"{self.output}",
            f"settings it needs: {self.metadata_file}",
            f"model card: {self.card_file}",
            f"route: {' '.join(map(str, self.route.units))}",
        ]
        undecided = self.route.undecided
        if undecided:
            lines.append(
                f"UNDECIDED in {len(undecided)} of {len(self.route.layers)} layers "
                f"({', '.join(undecided)}): the argmax there is arbitrary."
            )
        if self.metadata["left_out"]:
            lines.append(
                f"left out, which {self.metadata['layout']} has no place for: "
                f"{', '.join(self.metadata['left_out'])}"
            )
        return "\n".join(lines)


def export_backbone(
    checkpoint: str | os.PathLike,
    task: str | None,
    format: str,
    output: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    *,
    ema: bool = False,
    route_file: str | os.PathLike | None = None,
) -> ExportReport:
    """Export the backbone of one task's argmax route, or of a route from a file.

    Args:
        checkpoint: a ``model_*.pth`` of a gppf_d2 run.
        task: whose route, of the checkpoint or of the file; None where the file holds one.
        format: the layout, "detectron2", "torchvision" or "timm".
        output: ``.pth``, ``.safetensors``, or ``.pkl`` (Detectron2 only).
        config: the run's config (``input`` and ``backbone`` are read, the rest is for the card);
            None takes it from the checkpoint.
        ema: take the averaged parameters of a run with ``train.ema_decay``, controllers included.
        route_file: take the route from this file (`read_route_file`), whatever the checkpoint's
            controllers say.

    Raises:
        ValueError: unknown format, suffix or task, a file that is no lego checkpoint or truncated,
            a config that is missing or of another backbone, a backbone or route that the format
            cannot have, a route file that does not fit.
    """
    output = Path(output)
    _check_target(format, output)
    source = LegoCheckpoint.read(checkpoint, ema)
    config = config if config is not None else source.config()
    route = _choose_route(source, task, route_file)
    tensors = plain_state(source.state, route)
    facts = _facts(tensors, config)
    fitted = facts.fit(tensors, format)
    names = {name: to_layout(name, format) for name in fitted}
    named = {names[name]: tensor for name, tensor in fitted.items() if names[name]}
    parameters = sum(
        t.numel() for n, t in named.items() if t.is_floating_point() and ".running_" not in n
    )
    route = as_learned(route, source)
    metadata = {
        **_metadata(facts, route, format),
        "num_parameters": parameters,
        "left_out": [n for n, new in names.items() if new is None and not n.endswith(CONSTANTS)],
        "run": run_facts(source, config),
    }
    card = model_card(metadata, output.name, snippets(facts, format, output.name))
    beside = {suffix: output.with_name(output.name + suffix) for suffix in (".json", ".md")}
    texts = {beside[".json"]: json.dumps(metadata, indent=1) + "\n", beside[".md"]: card}
    _write_all(named, metadata, format, output, texts)
    return ExportReport(
        output=output, metadata_file=beside[".json"], card_file=beside[".md"], metadata=metadata,
        route=route, num_parameters=parameters,
    )  # fmt: skip


def _choose_route(
    source: LegoCheckpoint, task: str | None, route_file: str | os.PathLike | None
) -> Route:
    if route_file is not None:
        return route_in_file(source.state, route_file, task)
    if task is None:
        raise ValueError("No task is named; give the task whose route is taken, or a route file.")
    return route_of(source.state, task)


def _check_target(layout: str, output: Path) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown format {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if output.suffix not in SUFFIXES[layout]:
        raise ValueError(
            f"The output {str(output)!r} has the suffix {output.suffix!r}; the format {layout} is "
            f"written to {', '.join(SUFFIXES[layout])}."
        )


def _facts(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> BackboneFacts:
    """Structure from the tensors, the rest from the config, which must be of the same backbone."""
    missing = [name for name in ("input", "backbone") if name not in config]
    if missing:
        raise ValueError(
            f"The config has no {' and no '.join(missing)}; give the config of the run with "
            "--config-file."
        )
    settings, pixels = section(config, "backbone"), pixel_facts(section(config, "input"))
    return FACTS[family_of(tensors)].read(tensors, settings, pixels)


def _metadata(facts: BackboneFacts, route: Route, layout: str) -> dict[str, Any]:
    known = {} if route.num_units is None else {"num_units": route.num_units}
    return {
        "layout": layout,
        "task": route.task,
        "architecture": facts.title,
        **asdict(facts),
        "norm": facts.norm,
        "wrapper": facts.wrapper if layout == "detectron2" else "",
        **known,
        "layers": list(route.layers),
        "route": list(route.units),
        "route_file": route.file,
        "max_probability": [round(p, 6) for p in route.probabilities],
        "undecided": list(route.undecided),
        "overrides": facts.recipe(layout),
    }


def _write_all(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    layout: str,
    output: Path,
    texts: Mapping[Path, str],
) -> None:
    """Write the weights and the files beside them, all or none."""
    output.parent.mkdir(parents=True, exist_ok=True)
    waiting = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in (*texts, output)}
    try:
        _write_weights(tensors, metadata, layout, output.suffix, waiting[output])
        for path, text in texts.items():
            waiting[path].write_text(text)
        for path, temporary in waiting.items():
            os.replace(temporary, path)
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


def _write_weights(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    layout: str,
    suffix: str,
    path: Path,
) -> None:
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(tensors), path, {"format": "pt", METADATA_KEY: json.dumps(metadata)})
    elif layout != "detectron2":
        torch.save(dict(tensors), path)
    else:
        zoo = {"__author__": "gppf_d2", "matching_heuristics": True, METADATA_KEY: dict(metadata)}
        if suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            path.write_bytes(pickle.dumps({"model": arrays, **zoo}))
        else:
            torch.save({"model": dict(tensors), **zoo}, path)
