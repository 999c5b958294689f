"""Take one task's route out of a lego checkpoint and write it as a plain ResNet or Swin.

    checkpoint ──► argmax route of the task ──► plain state dict ──► names of the target layout
               ──► weights file + ``<weights file>.json``: what they are, the settings they need

For Detectron2 the names are those of a bare backbone with ``matching_heuristics`` on, as the zoo's
ImageNet weights: the checkpointer then finds their place in any stock model (FPN's bottom_up,
RetinaNet, C4). torchvision and timm get their flat state dict without the classifier; what they
cannot compute (a stride in the 1x1 convolution) is refused for them. Both files are written under
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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from gppf_d2.export.facts import BackboneFacts, pixel_facts
from gppf_d2.export.resnet import ResNetFacts
from gppf_d2.export.route import Route, plain_state, route_of
from gppf_d2.export.swin import SwinFacts
from gppf_d2.modeling.layouts import CONSTANTS, LAYOUTS, RESNET, SWIN, Family, family_of, to_layout
from gppf_d2.modeling.weight_files import METADATA_KEY, first_line

FACTS: dict[Family, type[BackboneFacts]] = {RESNET: ResNetFacts, SWIN: SwinFacts}
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
        metadata: its content.
        route: the exported route.
        num_parameters: scalars in the weights file, without running statistics.
    """

    output: Path
    metadata_file: Path
    metadata: Mapping[str, Any]
    route: Route
    num_parameters: int

    def __str__(self) -> str:
        lines = [
            f"{self.metadata['architecture']} of task {self.route.task!r} "
            f"({self.num_parameters / 1e6:.1f} M parameters, {self.metadata['layout']} layout): "
            f"{self.output}",
            f"settings it needs: {self.metadata_file}",
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
    task: str,
    format: str,
    output: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    *,
    ema: bool = False,
) -> ExportReport:
    """Export the backbone of one task's argmax route.

    Args:
        checkpoint: a ``model_*.pth`` of a gppf_d2 run.
        task: whose route.
        format: the layout, "detectron2", "torchvision" or "timm".
        output: ``.pth``, ``.safetensors``, or ``.pkl`` (Detectron2 only).
        config: the run's config (``input`` and ``backbone`` are read); None takes it from the
            checkpoint.
        ema: take the averaged parameters of a run with ``train.ema_decay``, controllers included.

    Raises:
        ValueError: unknown format, suffix or task, a file that is no lego checkpoint or truncated,
            a config that is missing or of another backbone, a backbone or route that the format
            cannot have.
    """
    output = Path(output)
    _check_target(format, output)
    state, saved_config = read_lego_checkpoint(checkpoint, ema)
    config = config if config is not None else _parse_config(saved_config, checkpoint)
    route = route_of(state, task)
    tensors = plain_state(state, route)
    facts = _facts(tensors, config)
    fitted = facts.fit(tensors, format)
    names = {name: to_layout(name, format) for name in fitted}
    named = {names[name]: tensor for name, tensor in fitted.items() if names[name]}
    left_out = [n for n, new in names.items() if new is None and not n.endswith(CONSTANTS)]
    metadata = _metadata(facts, route, format, left_out)
    metadata_file = output.with_name(f"{output.name}.json")
    _write_both(named, metadata, format, output, metadata_file)
    parameters = sum(
        t.numel() for n, t in named.items() if t.is_floating_point() and ".running_" not in n
    )
    return ExportReport(
        output=output, metadata_file=metadata_file, metadata=metadata, route=route,
        num_parameters=parameters,
    )  # fmt: skip


def read_lego_checkpoint(
    path: str | os.PathLike, ema: bool = False
) -> tuple[dict[str, Tensor], str | None]:
    """Read the state dict and the config text of a gppf_d2 checkpoint, running no code from it.

    Args:
        path: a ``model_*.pth`` of a run.
        ema: put the averaged parameters in the place of the last ones.

    Raises:
        ValueError: no such file, truncated, not a checkpoint with lego units and controllers, or
            without the averaged parameters that are asked for.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"There is no checkpoint {path!r}; give a model_*.pth of a run.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"The checkpoint {path!r} cannot be read ({first_line(error)}); "
            "it may be truncated, take an earlier one."
        ) from error
    state = content.get("model") if isinstance(content, Mapping) else None
    if (
        not isinstance(state, Mapping)
        or not any(str(name).startswith("backbone.stem.units.") for name in state)
        or not any(str(name).startswith("controllers.") for name in state)
    ):
        raise ValueError(
            f"{path!r} is not a gppf_d2 checkpoint (no lego units and controllers in it); "
            "give a model_*.pth of a run."
        )
    average: Mapping[str, Tensor] = {}
    if ema:
        if "average" not in (content.get("ema") or {}):
            raise ValueError(
                f"{path!r} holds no averaged parameters (train.ema_decay); export without ema."
            )
        average = content["ema"]["average"]
    config = content.get("config")
    return {**state, **average}, config if isinstance(config, str) else None


def _check_target(layout: str, output: Path) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown format {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if output.suffix not in SUFFIXES[layout]:
        raise ValueError(
            f"The output {str(output)!r} has the suffix {output.suffix!r}; the format {layout} is "
            f"written to {', '.join(SUFFIXES[layout])}."
        )


def _parse_config(text: str | None, checkpoint: str | os.PathLike) -> Mapping[str, Any]:
    if text is None:
        raise ValueError(
            f"The checkpoint {os.fspath(checkpoint)!r} does not hold its config; give "
            "--config-file."
        )
    try:
        return OmegaConf.create(text)
    except Exception as error:
        raise ValueError(
            f"The config inside {os.fspath(checkpoint)!r} cannot be read; give --config-file."
        ) from error


def _facts(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> BackboneFacts:
    """Structure from the tensors, the rest from the config, which must be of the same backbone."""
    missing = [name for name in ("input", "backbone") if name not in config]
    if missing:
        raise ValueError(
            f"The config has no {' and no '.join(missing)}; give the config of the run with "
            "--config-file."
        )
    settings, pixels = _section(config, "backbone"), pixel_facts(_section(config, "input"))
    return FACTS[family_of(tensors)].read(tensors, settings, pixels)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of the config as plain values, interpolations resolved."""
    section = config[name]
    try:
        if OmegaConf.is_config(section):
            section = OmegaConf.to_container(section, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"The config's {name} cannot be resolved: {first_line(error)}") from error
    if not isinstance(section, Mapping):
        raise ValueError(f"The config's {name} is {section!r}; it must be a group of settings.")
    return section


def _metadata(
    facts: BackboneFacts, route: Route, layout: str, left_out: list[str]
) -> dict[str, Any]:
    return {
        "layout": layout,
        "task": route.task,
        "architecture": facts.title,
        **asdict(facts),
        "norm": facts.norm,
        "layers": list(route.layers),
        "route": list(route.units),
        "max_probability": [round(p, 6) for p in route.probabilities],
        "undecided": list(route.undecided),
        "left_out": left_out,
        "overrides": facts.recipe(layout),
    }


def _write_both(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    layout: str,
    output: Path,
    metadata_file: Path,
) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary_json = metadata_file.with_name(f".{metadata_file.name}.{os.getpid()}.tmp")
    try:
        _write_weights(tensors, metadata, layout, output.suffix, temporary)
        temporary_json.write_text(json.dumps(metadata, indent=1) + "\n")
        os.replace(temporary_json, metadata_file)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
        temporary_json.unlink(missing_ok=True)


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
