"""From what the command line of ``gppf_d2.tools.cka`` names to networks with layers.

    RUN            every task of a run folder (or of a checkpoint beside its config.yaml)
    RUN:task       one of them
    FILE           plain weights of a ResNet or Swin (torchvision, timm, Detectron2), or of the
                   model of timm that ``--timm-model`` names
    FILE.py:name   a function without arguments that returns a torch module

Each may have NAME= in front. A run's networks get images as the run does, weights as their file
says, a module of timm as timm says. Where nobody says: RGB with the mean and deviation of ImageNet
(BGR with those of Detectron2's zoo), and the stride of bottlenecks in the 3x3 convolution.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from gppf_d2.analysis.similarity.features import Layers, Pixels, module_layers, route_layers
from gppf_d2.data.samples import one_line
from gppf_d2.engine.checkpoint import newest_checkpoint, read_checkpoint
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.setup import build_tasks, load_model
from gppf_d2.export.swin import SwinFacts
from gppf_d2.modeling.layouts import RESNET, depth_of, is_bottleneck
from gppf_d2.modeling.lego import LegoResNet, LegoSwin, LegoTimm
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.swin import PATCH
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.pretrained import load_pretrained
from gppf_d2.modeling.weight_files import SUFFIXES, PlainWeights, read_plain_weights
from gppf_d2.tools.predict import check_run

BGR = Pixels("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # of Detectron2's zoo


@dataclass(frozen=True)
class Loaded:
    """The networks that a command names.

    Args:
        networks: on the CPU, each name once.
        run: folder of the first run among them; None where there is none.
    """

    networks: tuple[Layers, ...]
    run: Path | None


@dataclass(frozen=True)
class _Asked:
    """One MODEL of the command line: the name before "=", the path, what follows ":"."""

    name: str
    source: str
    part: str

    @classmethod
    def of(cls, text: str) -> _Asked:
        name, equals, rest = text.partition("=")
        whole = os.path.exists(text) or os.path.exists(text.rpartition(":")[0])
        if not (equals and name) or "/" in name or whole:  # "lr=0.1:scenes" may be a run
            name, rest = "", text
        source, colon, part = rest.rpartition(":")
        if not colon or os.path.exists(rest) or rest.endswith(SUFFIXES):
            source, part = rest, ""
        return cls(name, source, part)

    @property
    def checkpoint(self) -> Path | None:
        """Of the run that is meant; None where something else is.

        Raises:
            UserError: a folder without a run or without a checkpoint, a checkpoint alone.
        """
        path = Path(self.source).expanduser()
        if path.is_dir():
            return _newest(path)
        if path.suffix != ".pth" or not path.is_file():
            return None
        try:
            read_checkpoint(path, mmap=True)
        except UserError:
            return None  # plain weights, or broken: whoever reads them says so
        if not (path.parent / "config.yaml").is_file():
            raise UserError(
                f"The checkpoint '{path}' has no config.yaml beside it; name one in its run folder."
            )
        return path


def load_networks(texts: Sequence[str], pattern: str = "", timm_model: str = "") -> Loaded:
    """Load all that is named.

    Args:
        texts: the MODELs.
        pattern: which layers, see `gppf_d2.analysis.similarity.features.matching`; "" takes all.
        timm_model: timm's name of the model whose weights the files hold that are neither a
            ResNet's nor a Swin's.

    Raises:
        UserError, ValueError: something is not there, does not fit, or two have one name.
    """
    found: list[tuple[Layers, str]] = []  # with a longer name, where the first is not unique
    runs: dict[Path, tuple[MultiTaskModel, int | None]] = {}
    for asked in map(_Asked.of, texts):
        checkpoint = asked.checkpoint
        if checkpoint is not None:
            found += _of_run(asked, checkpoint, runs, pattern)
        elif asked.source.endswith(".py"):
            network = module_layers(_call(asked), asked.name or asked.part, None, pattern)
            found.append((network, asked.name or f"{Path(asked.source).stem}:{asked.part}"))
        elif asked.source.endswith(SUFFIXES) and not asked.part:
            backbone, pixels = _plain(asked.source, timm_model)
            name = asked.name or Path(asked.source).stem
            found.append((module_layers(backbone, name, pixels, pattern), name))
        else:
            raise UserError(
                f"{asked.source!r} is neither a run folder, nor a weights file "
                f"({', '.join(SUFFIXES)}), nor a FILE.py:function; check the path."
            )
    if timm_model and not any(isinstance(network.root, LegoTimm) for network, _ in found):
        raise UserError(
            f"--timm-model is {timm_model!r}, but no file has weights of it; leave it out."
        )
    return Loaded(_with_unique_names(found), next(iter(runs)).parent if runs else None)


def _with_unique_names(found: Sequence[tuple[Layers, str]]) -> tuple[Layers, ...]:
    short = Counter(network.name for network, _ in found)
    networks = [
        network if short[network.name] == 1 else replace(network, name=longer)
        for network, longer in found
    ]
    name, count = Counter(network.name for network in networks).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} networks are called {name!r}; put NAME= before all but one.")
    return tuple(networks)


def _newest(folder: Path) -> Path:
    check_run(folder)
    return newest_checkpoint(folder)


def _of_run(
    asked: _Asked,
    checkpoint: Path,
    runs: dict[Path, tuple[MultiTaskModel, int | None]],
    pattern: str,
) -> list[tuple[Layers, str]]:
    """The networks of some tasks of a run; its model is loaded once."""
    folder = checkpoint.parent
    cfg = load_config(str(folder / "config.yaml"), ["train.device=cpu"])
    tasks = list(build_tasks(cfg))
    if asked.part and asked.part not in tasks:
        raise UserError(
            f"The run '{folder}' has no task {asked.part!r}; it has {', '.join(tasks)}."
        )
    if checkpoint not in runs:
        averaged = bool(cfg.train.get("ema_decay"))
        model = load_model(cfg, str(checkpoint), tasks=[], ema=averaged)
        runs[checkpoint] = model, read_checkpoint(checkpoint, mmap=True).get("iteration")
    model, iteration = runs[checkpoint]
    pixels = Pixels(
        str(cfg.input.pixel_format), list(cfg.input.pixel_mean), list(cfg.input.pixel_std)
    )
    chosen = [asked.part] if asked.part else tasks
    found = []
    for task in chosen:
        short = asked.name if asked.name and len(chosen) == 1 else task
        longer = f"{asked.name or folder.resolve().name}:{task}"
        name = longer if asked.name and len(chosen) > 1 else short
        network = route_layers(model, task, name, pixels, pattern)
        found.append((replace(network, iteration=iteration), longer))
    return found


def _call(asked: _Asked) -> nn.Module:
    """The module that a function in a file returns."""
    path, where = Path(asked.source).expanduser(), f"'{asked.source}:{asked.part}'"
    if not path.is_file():
        raise UserError(f"There is no file '{asked.source}'.")
    spec = importlib.util.spec_from_file_location(f"model_file_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    source = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = source  # where its dataclasses look for their module
    try:
        spec.loader.exec_module(source)
        function = getattr(source, asked.part, None)
        module = function() if callable(function) else None
    except Exception as error:
        raise UserError(f"{where} failed: {type(error).__name__}: {one_line(error)}.") from error
    if function is None:
        raise UserError(f"'{asked.source}' has no function {asked.part!r}; write FILE.py:function.")
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{where} gave a {type(module).__name__}; it must be a function without arguments that "
            "returns a torch module."
        )
    return module


def _plain(path: str, timm_model: str) -> tuple[LegoBackbone, Pixels]:
    """A lego with N = 1 that holds the weights of a file, and what it expects of images."""
    try:
        backbone = _empty_lego(read_plain_weights(path))
    except ValueError as error:
        if not timm_model:
            hint = "another model of timm is named with --timm-model"
            raise ValueError(f"{str(error).rstrip('.')}; {hint}.") from error
        backbone = LegoTimm(timm_model, 1, "BN")
    report = load_pretrained(backbone, path)
    if report.missing:
        raise ValueError(
            f"{path!r} lacks {len(report.missing)} tensors of a {report.architecture}, such as "
            f"{report.missing[0]!r}; give the whole backbone."
        )
    pixels = BGR if report.pixel_format == "BGR" else Pixels()
    if report.pixel_mean and report.pixel_std:
        pixels = Pixels(pixels.pixel_format, report.pixel_mean, report.pixel_std)
    return backbone, pixels


def _empty_lego(weights: PlainWeights) -> LegoBackbone:
    """The lego with N = 1 of the structure that shows in the tensors."""
    tensors = weights.tensors
    if weights.family is RESNET:
        bottleneck, conv2 = is_bottleneck(tensors), tensors["res2.0.conv2.weight"]
        groups = conv2.shape[0] // conv2.shape[1] if bottleneck else 1
        return LegoResNet(
            depth_of(tensors),
            1,
            "BN",
            stride_in_1x1=bool(weights.stride_in_1x1),
            stem_out_channels=tensors["stem.conv1.weight"].shape[0],
            res2_out_channels=tensors[f"res2.0.conv{3 if bottleneck else 2}.weight"].shape[0],
            num_groups=groups,
            width_per_group=conv2.shape[0] // groups,
        )
    channels = tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[1]
    same = {"embed_dim": channels, "depths": weights.family.size_of(tensors)}
    pixels = {"pixel_format": "RGB", "pixel_mean": (), "pixel_std": ()}
    facts = SwinFacts.read(tensors, same, pixels)
    side = {} if facts.ape_side is None else {"pretrain_img_size": PATCH * facts.ape_side}
    return LegoSwin(
        "T",
        1,
        embed_dim=facts.embed_dim,
        depths=facts.depths,
        num_heads=facts.num_heads,
        window_size=facts.window_size,
        mlp_ratio=facts.mlp_ratio,
        ape=facts.ape_side is not None,
        drop_path_rate=0.0,
        **side,
    )
