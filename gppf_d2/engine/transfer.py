"""Start a downstream task from the checkpoint of a pre-training run (GPPF section 3.3).

    train.init_route   the backbone that is trained                               units a layer
    a task's name      its route, taken out: fixed path finetuning                1
    a route file       that route, taken out: "retrain" where a dynamic run
                       found it                                                   1
    dynamic            all units; the task's controller learns a route from
                       the uniform one: dynamic finetuning                        N

``train.init_head`` names the task of the checkpoint whose head comes along; the layers that predict
its classes only do with ``train.init_predictions``. What a downstream model gets, what keeps its
fresh values and what stays behind is a `TransferReport`. At the end of a dynamic run `extracted`
makes the ordinary network of the learned route: a checkpoint with one unit a layer.

Nothing here is a collective: every rank reads the same file, or fails with the same sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor

from gppf_d2.engine.errors import UserError
from gppf_d2.engine.pretrained_run import DYNAMIC, UNIT, PretrainedRun
from gppf_d2.modeling.heads import prediction_layers
from gppf_d2.modeling.multitask import MultiTaskModel

logger = logging.getLogger(__name__)

_COUNTER = ".num_batches_tracked"  # FrozenBatchNorm has none
_SHOWN = 6  # names of a list in the report


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What `load_pretrained_run` did. Names are those of the downstream model.

    Args:
        path: the checkpoint.
        choice: ``train.init_route``.
        route: the route that was taken out; None for all units.
        head: the task whose head came along, "" for none.
        loaded: tensors that come from the checkpoint.
        fresh: tensors that keep their initial values.
        ignored: tensors of the checkpoint that found no place, by its own names.
    """

    path: str
    choice: str
    route: tuple[int, ...] | None
    head: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        """A table of parts, then the names of what is re-initialised and ignored."""
        parts = sorted({_part(name) for name in (*self.loaded, *self.fresh)})
        rows = [
            (part, *(sum(_part(n) == part for n in names) for names in (self.loaded, self.fresh)))
            for part in parts
        ]
        way = "all units" if self.route is None else f"route {' '.join(map(str, self.route))}"
        lines = [
            f"From {self.path}: {way} ({self.choice}), "
            + (f"head of {self.head}" if self.head else "no head"),
            tabulate(rows, headers=["part", "loaded", "re-initialised"]),
        ]
        for word, names in (("re-initialised", self.fresh), ("ignored", self.ignored)):
            whole = names is self.ignored  # heads that stay behind are named, not their modules
            groups = sorted({self._group(name, whole) for name in names})
            more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
            if groups:
                lines.append(f"{word}: {', '.join(groups[:_SHOWN])}{more}")
        return "\n".join(lines)

    def _group(self, name: str, whole: bool) -> str:
        """What stands for a tensor in a list: its unit, its head or its module."""
        match = UNIT.fullmatch(name)
        if match:
            return f"{match['layer']}.units.{match['unit']}"
        if whole and not name.startswith(f"heads.{self.head}."):
            return _part(name)
        return name.rpartition(".")[0]


def _part(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith("heads.") else 1])


def fit_backbone(cfg: DictConfig, going_on: PretrainedRun | None = None) -> DictConfig:
    """The config with the number and kinds of units that ``train.init_route`` asks for.

    Args:
        cfg: the run's config; it is not changed.
        going_on: the checkpoint that is resumed or evaluated, whose units count where there is one.

    Raises:
        UserError: a route without a run's checkpoint, a checkpoint of another input, an unknown
            route.
    """
    path, choice = str(cfg.train.init_checkpoint), str(cfg.train.get("init_route") or "")
    if going_on is not None:
        return _with_units(cfg, going_on.num_units, going_on.kinds(None)) if choice else cfg
    if not path:
        for key in ("init_route", "init_head"):
            if cfg.train.get(key):
                logger.info("train.%s is not used: train.init_checkpoint is empty", key)
        return cfg
    if not choice:
        if cfg.train.get("init_head"):
            raise UserError(
                "train.init_head needs train.init_route, which is empty; name a route of the "
                "checkpoint, or set train.init_head= too."
            )
        return cfg
    if cfg.train.get("init_noise"):
        raise UserError(
            f"train.init_noise is {cfg.train.init_noise}, which is for plain weights; a run's "
            "units differ already, set it to 0."
        )
    try:
        run = PretrainedRun.read(path)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}; train.init_route={choice} takes a run's checkpoint, plain "
            "weights go with train.init_route= and train.init_head=."
        ) from None
    _check_input(run, cfg)
    route = None if choice == DYNAMIC else run.route(choice)
    return _with_units(cfg, run.num_units if route is None else 1, run.kinds(route))


def _with_units(cfg: DictConfig, number: int, kinds: list[str] | None = None) -> DictConfig:
    if cfg.backbone.get("num_units") == number and not kinds:
        return cfg
    fitted = OmegaConf.merge(OmegaConf.create(flags={"allow_objects": True}), cfg)
    fitted.backbone.num_units = number
    if kinds:
        fitted.backbone.units = kinds
    return fitted


def _check_input(run: PretrainedRun, cfg: DictConfig) -> None:
    """Refuse weights that expect other pixels, or strides elsewhere: they would load silently."""
    theirs, ours = run.config.get("input") or {}, OmegaConf.to_container(cfg.input, resolve=True)
    for key, value in ours.items():
        if key in theirs and theirs[key] != value:
            raise UserError(
                f"The checkpoint {run.path!r} was trained with input.{key}={theirs[key]} and the "
                f"config has {value}; write the checkpoint's."
            )
    theirs = (run.config.get("backbone") or {}).get("stride_in_1x1")
    ours = cfg.backbone.get("stride_in_1x1")
    if None not in (theirs, ours) and bool(theirs) != bool(ours):
        raise UserError(
            f"The checkpoint {run.path!r} was trained with backbone.stride_in_1x1={theirs} and the "
            f"config has {ours}; write the checkpoint's."
        )


def load_pretrained_run(
    model: MultiTaskModel,
    path: str,
    choice: str,
    head: str = "",
    predictions: bool = False,
    classes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> TransferReport:
    """Load backbone and head of a pre-training run into a downstream model.

    Args:
        model: of a config that `fit_backbone` returned.
        path: a gppf_d2 checkpoint.
        choice: ``train.init_route``.
        head: the task of the checkpoint whose head comes along; "" for none.
        predictions: take the layers that predict classes along.
        classes: the downstream tasks', as in `PretrainedRun`; None where they are not known.

    Raises:
        UserError: an unknown task, a backbone or head of another architecture, other classes.
    """
    run = PretrainedRun.read(path)
    route = None if choice == DYNAMIC else run.route(choice)
    wanted = model.state_dict()
    given = run.backbone(route)
    _check_backbone(run, given, {n: t for n, t in wanted.items() if n.startswith("backbone.")})
    if head:
        given |= _head_tensors(run, model, head, predictions, classes or {})
    model.load_state_dict({name: given.get(name, tensor) for name, tensor in wanted.items()})
    if choice in run.tasks and (doubt := run.doubt(choice)):
        logger.warning("%s", doubt)
    # with one unit a layer there is nothing to choose, and the controllers play no part
    silent = ("controllers.",) if route is not None else ()
    used = {id(tensor) for name, tensor in given.items() if name in wanted}
    return TransferReport(
        path=path,
        choice=choice,
        route=None if route is None else tuple(route),
        head=head,
        loaded=tuple(name for name in wanted if name in given),
        fresh=tuple(
            name
            for name in wanted
            if name not in given and not name.endswith(_COUNTER) and not name.startswith(silent)
        ),
        ignored=tuple(name for name, tensor in run.state.items() if id(tensor) not in used),
    )


def _check_backbone(
    run: PretrainedRun, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    problem = _difference(given, wanted)
    if problem:
        theirs = run.config.get("backbone") or {}
        size = ", ".join(
            f"{key}={theirs[key]}" for key in ("depth", "size", "embed_dim", "depths", "model")
            if theirs.get(key) is not None
        )  # fmt: skip
        raise UserError(
            f"The backbone in {run.path!r} is not the config's: {problem}; make the config's "
            f"backbone like the checkpoint's ({size or 'see the run that wrote it'})."
        )


def _difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first thing in which two sets of tensors differ, "" where there is none."""
    for name, tensor in given.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            return f"{name} is {tuple(tensor.shape)} against {tuple(wanted[name].shape)}"
    for name in sorted(given.keys() ^ wanted.keys()):
        if not name.endswith(_COUNTER):
            return f"it {'lacks' if name in wanted else 'also has'} {name}"
    return ""


def _head_tensors(
    run: PretrainedRun,
    model: MultiTaskModel,
    source: str,
    predictions: bool,
    classes: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Tensor]:
    """The tensors of a head of the run under the names of the model's only head.

    Parts that only one of the two has (masks) stay behind, or fresh; what both have must fit.
    """
    if source not in run.tasks:
        raise UserError(
            f"train.init_head is {source!r}; the checkpoint {run.path!r} has the tasks "
            f"{', '.join(sorted(run.tasks))}."
        )
    if len(model.controllers) > 1:
        raise UserError(
            f"train.init_head is for a run of one task, and this one has "
            f"{', '.join(model.controllers)}; leave it empty."
        )
    ((task, head),) = model.heads.items()
    fresh = () if predictions else prediction_layers(head)
    if not (predictions or fresh) and any((run.classes.get(source) or {}).values()):
        logger.warning(
            "No layer that predicts classes is known in the head of %s: all of it comes along. "
            "Name such layers in an attribute prediction_layers.",
            task,
        )
    if predictions:
        _check_classes(run, source, task, classes.get(task) or {})
    theirs = _below(run.state, f"heads.{source}.")
    wanted = {n: t for n, t in head.state_dict().items() if not _inside(n, fresh)}
    both = [name for name in wanted if name in theirs]
    problem = _difference({n: theirs[n] for n in both}, {n: wanted[n] for n in both})
    if problem or not both:
        raise UserError(
            f"The head of {source!r} in {run.path!r} does not fit {task!r}: "
            f"{problem or 'it is a head of another kind'}; build both alike, name the layers "
            "that predict classes in an attribute prediction_layers, or leave train.init_head "
            "empty."
        )
    return {f"heads.{task}.{name}": theirs[name] for name in both}


def _check_classes(
    run: PretrainedRun, source: str, task: str, ours: Mapping[str, Sequence[str]]
) -> None:
    for kind, theirs in (run.classes.get(source) or {}).items():
        names = ours.get(kind)
        if names is None or list(names) == list(theirs):
            continue
        first = next(
            (i for i, (a, b) in enumerate(zip(theirs, names)) if a != b),
            min(len(theirs), len(names)),
        )
        raise UserError(
            f"train.init_predictions: task {source!r} of {run.path!r} has {len(theirs)} classes "
            f"and {task!r} has {len(names)}, which differ from number {first} on "
            f"({_nth(theirs, first)} against {_nth(names, first)}); set "
            "train.init_predictions=False."
        )


def _nth(names: Sequence[str], index: int) -> str:
    return repr(names[index]) if index < len(names) else "nothing"


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _inside(name: str, paths: Collection[str]) -> bool:
    return any(not path or name.startswith(f"{path}.") for path in paths)


def extracted(state: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The checkpoint of one task with its argmax route as an ordinary backbone (section 3.3).

    Args:
        state: of a checkpoint with N units a layer, from ``RunState.collect``.
        task: whose route and head.

    Returns:
        A checkpoint with one unit a layer and this task alone: it is evaluated and exported like
        any other and cannot be resumed. "route" says which units it has.

    Raises:
        UserError: the route passes residual units of several architectures.
    """
    averaged = (state.get("ema") or {}).get("average") or {}
    run = PretrainedRun.of("", {**state, "model": {**state["model"], **averaged}})
    route = run.route(task)
    logger.info("Route of %s: %s. %s", task, " ".join(map(str, route)), run.doubt(task))
    kinds = run.kinds(route)

    def ordinary(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = replace(run, state=tensors).backbone(route)
        head = {n: t for n, t in tensors.items() if n.startswith(f"heads.{task}.")}
        return {**found, **head, f"controllers.{task}": torch.zeros(len(route), 1)}

    config = dict(run.config)
    config["backbone"] = {**config["backbone"], "num_units": 1}
    if kinds:
        config["backbone"]["units"] = kinds
    config["tasks"] = {task: config["tasks"][task]}
    result = {key: state[key] for key in ("format", "iteration", "temperature")}
    result |= {"model": ordinary(state["model"]), "optimizer": {}, "streams": {}, "tasks": [task]}
    result |= {"route": route, "config": yaml.safe_dump(config, sort_keys=False)}
    result["classes"] = {task: (state.get("classes") or {}).get(task) or {}}
    if averaged:
        result["ema"] = {"average": ordinary(averaged)}
    return result
