"""Build the parts of a run from its config, and nothing that the rank does not hold.

The config stays lazy until the room that owns an object asks for it: heads are built inside the
model's context (so that ``SharedBackbone`` finds the core), mappers and evaluators where they are
used. In ``pinned`` mode a rank builds, holds and loads its own task only.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from gppf_d2.data.catalog import register_all
from gppf_d2.data.index import RecordSequence, concatenate, open_records
from gppf_d2.data.loader import TaskSource
from gppf_d2.engine.checkpoint import load_model_state, read_checkpoint
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.pretrained_run import PretrainedRun
from gppf_d2.engine.transfer import fit_backbone, load_pretrained_run
from gppf_d2.modeling.heads import check_input_format, replace_sync_norms
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.pretrained import load_pretrained
from gppf_d2.tasks.random import hash64
from gppf_d2.tasks.repeats import equal_shares, repeat_factors
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.spec import Task, tasks_from_config
from gppf_d2.tasks.stream import Stream

logger = logging.getLogger(__name__)

CLASS_METADATA = ("classes", "thing_classes", "stuff_classes")
AMP_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_tasks(cfg: DictConfig) -> dict[str, Task]:
    """The config's tasks; heads, mappers and evaluators stay lazy."""
    return tasks_from_config(cfg.tasks)


def build_schedule(
    cfg: DictConfig, tasks: Mapping[str, Task], world_size: int, policy: str | None = None
) -> Schedule:
    """The schedule over the ranks, or over the virtual ranks of a single process.

    Args:
        policy: None takes ``schedule.policy``; another one is for commands that do not train.

    Raises:
        UserError: virtual ranks in a run of several processes.
    """
    virtual = 1 if policy else int(cfg.train.virtual_ranks)
    if virtual < 1 or (virtual > 1 and world_size > 1):
        raise UserError(
            f"train.virtual_ranks is {virtual} with {world_size} processes; virtual ranks are for "
            "one process without partners, set it to 1 here."
        )
    schedule = Schedule(
        {name: task.weight for name, task in tasks.items()},
        world_size * virtual,
        policy=policy or cfg.schedule.policy,
        seed=int(cfg.train.seed),
    )
    if not policy and (schedule.lacks_partners or virtual > 1):
        lost = "gradients of different tasks are averaged, statistics are not shared across tasks"
        if virtual == 1:
            lost = "an iteration trains one task (per-batch sampling, in the paper it diverges)"
        logger.warning(
            "One process with %d tasks: %s. Start more processes (--num-processes) for cross-task "
            "statistics%s.",
            len(tasks), lost, "" if virtual > 1 else ", or set train.virtual_ranks",
        )  # fmt: skip
    return schedule


def device_of(cfg: DictConfig) -> torch.device:
    """``train.device``, with ``auto`` meaning the current GPU where there is one."""
    name = str(cfg.train.device)
    if name == "auto":
        name = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def amp_dtype(cfg: DictConfig) -> torch.dtype | None:
    """The autocast dtype that ``train.amp`` names."""
    name = str(cfg.train.amp)
    if name not in AMP_DTYPES:
        raise UserError(f"train.amp is {name!r}; allowed are {', '.join(AMP_DTYPES)}.")
    return AMP_DTYPES[name]


def build_model(
    cfg: DictConfig, tasks: Mapping[str, Task], held: Iterable[str] | None = None
) -> MultiTaskModel:
    """Backbone, controllers of all tasks and the heads of the held ones, on the run's device.

    Args:
        cfg: the run's config.
        tasks: all tasks.
        held: tasks whose head is built; None builds all.
    """
    torch.manual_seed(int(cfg.train.seed))
    routes = cfg.gates.get("fixed_routes") or {}
    model = MultiTaskModel(
        instantiate(cfg.backbone),
        tasks=list(tasks),
        mode=cfg.gates.mode,
        eval_mode=cfg.gates.eval_mode,
        fixed_routes={task: list(r) for task, r in routes.items() if task in tasks},
    )
    for name in tasks if held is None else held:
        add_head(cfg, model, tasks[name])
    return model.to(device_of(cfg))


def add_head(cfg: DictConfig, model: MultiTaskModel, task: Task) -> None:
    """Build one task's head; its initial weights are a function of the seed and the task's name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash64("head", int(cfg.train.seed), task.name) % 2**63)
        model.add_head(task.name, lambda: instantiate(task.head))
    head = model.heads[task.name]
    replace_sync_norms(head)
    check_input_format(task.name, head, list(cfg.input.pixel_mean), list(cfg.input.pixel_std))
    check_pixel_format(f"The head of task {task.name!r}", getattr(head, "input_format", None), cfg)
    for evaluation in task.evaluators:
        model.check_label(task.name, evaluation.label)


def check_pixel_format(what: str, found: str | None, cfg: DictConfig) -> None:
    """Refuse a head or mapper whose pixel format is not the run's.

    Raises:
        UserError: it says another one; None says nothing.
    """
    wanted = str(cfg.input.pixel_format)
    if found is not None and str(found) != wanted:
        raise UserError(
            f"{what} takes {found} images and input.pixel_format is {wanted}; "
            "write ${input.pixel_format} there."
        )


def load_initial_weights(cfg: DictConfig, model: MultiTaskModel, tasks: Mapping[str, Task]) -> str:
    """Start from ``train.init_checkpoint``, where it is set.

    That is plain weights for every unit, or, with ``train.init_route``, units and head of a
    pre-training run.

    Returns:
        What was loaded, re-initialised and ignored, as a table in text; "" without a checkpoint.
    """
    path, choice = str(cfg.train.init_checkpoint), str(cfg.train.get("init_route") or "")
    if not path:
        return ""
    if choice:
        report: object = load_pretrained_run(
            model,
            path,
            choice,
            head=str(cfg.train.init_head or ""),
            predictions=bool(cfg.train.init_predictions),
            classes=class_names(tasks),
        )
    else:
        report = load_pretrained(
            model.backbone, path, noise=float(cfg.train.init_noise), seed=int(cfg.train.seed)
        )
    logger.info("%s", report)
    return str(report)


def class_names(tasks: Mapping[str, Task]) -> dict[str, dict[str, list[str]]]:
    """Per task what its training data's metadata say of classes: kind of metadata -> names.

    Of several datasets the first that says something of a kind counts: the labels of a student may
    come from one each. A dataset that nobody has registered has none here; it is missed where it is
    read.
    """
    register_all()
    found: dict[str, dict[str, list[str]]] = {}
    for name, task in tasks.items():
        known = [MetadataCatalog.get(d) for d in task.train if d in DatasetCatalog]
        found[name] = {
            key: [str(one) for one in names[0]]
            for key in CLASS_METADATA
            if (names := [m.get(key) for m in known if m.get(key)])
        }
    return found


def load_model(
    cfg: DictConfig, checkpoint: str, tasks: list[str] | None = None, ema: bool = False
) -> MultiTaskModel:
    """A trained model in evaluation mode, with the heads of the chosen tasks.

    Args:
        cfg: the config of the run.
        checkpoint: a gppf_d2 checkpoint file.
        tasks: heads to build; None builds all.
        ema: take the averaged parameters.

    Raises:
        UserError: an unknown task, a checkpoint of another config.
    """
    everything = build_tasks(cfg)
    unknown = [name for name in tasks or () if name not in everything]
    if unknown:
        raise UserError(f"Unknown task {unknown[0]!r}; the config has {', '.join(everything)}.")
    held = list(everything) if tasks is None else tasks
    state = read_checkpoint(checkpoint)
    run = PretrainedRun.of(str(checkpoint), state)
    model = build_model(fit_backbone(cfg, going_on=run), everything, held)
    weights = dict(state["model"])
    if ema:
        if "ema" not in state:
            raise UserError(
                f"{checkpoint!r} holds no averaged parameters; train with train.ema_decay."
            )
        weights.update(state["ema"]["average"])
    load_model_state(
        model,
        weights,
        source=str(checkpoint),
        held=set(held),
        remedy="give the config.yaml of the checkpoint's own run",
    )
    return model.eval()


def load_records(names: Iterable[str]) -> RecordSequence:
    """All records of the named datasets, one after the other, through their indexes.

    Where a dataset has no index yet one process of each machine builds it and the others wait.

    Raises:
        UserError: an unknown or an empty dataset.
    """
    return concatenate(_load_datasets(names))


def _load_datasets(names: Iterable[str]) -> list[RecordSequence]:
    """See ``load_records``; a sequence for each name."""
    register_all()
    found: list[RecordSequence] = []
    for name in names:
        _check_registered(name)
        records = open_records(name)
        if not len(records):
            raise UserError(f"The dataset {name!r} has no sample; check its folder and its lists.")
        found.append(records)
    return found


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog:
        known = sorted(DatasetCatalog.list())
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
        raise UserError(
            f"There is no dataset {name!r}; close to it are {', '.join(near) or 'none'} "
            f"(of {len(known)} registered). Register it, or mend the name in the config."
        )


def build_data(
    tasks: Mapping[str, Task], held: Iterable[str], seed: int, cfg: DictConfig
) -> tuple[dict[str, TaskSource], dict[str, Stream]]:
    """Sources and streams of the held tasks.

    A mapper whose class says ``reads_dataset_name = True`` gets records with "dataset_name"; its
    ``dataset_names`` are those that it treats in a way of their own, and must exist; its
    ``check_datasets``, where it has one, is called with a record of each dataset of ``train``.
    """
    sources: dict[str, TaskSource] = {}
    streams: dict[str, Stream] = {}
    for name in held:
        task = tasks[name]
        mapper = instantiate(task.mapper)
        image_format = getattr(mapper, "image_format", None)
        check_pixel_format(f"The mapper of task {name!r}", image_format, cfg)
        parts = _training_records(task)
        if getattr(mapper, "reads_dataset_name", False):
            for dataset in mapper.dataset_names:
                _check_registered(dataset)
            parts = [part.named(dataset) for part, dataset in zip(parts, task.train)]
            if hasattr(mapper, "check_datasets"):
                mapper.check_datasets(part[0] for part in parts)
        records = concatenate(parts)
        factors = None
        if task.repeat_threshold > 0:
            factors = repeat_factors(records.categories(), task.repeat_threshold)
        if task.equal_datasets:
            factors = equal_shares([len(part) for part in parts], factors)
        streams[name] = Stream(name, len(records), seed, repeat_factors=factors)
        sources[name] = TaskSource(
            records,
            mapper,
            batch_transform=instantiate(task.batch_transform),
            sizes={dataset: len(part) for dataset, part in zip(task.train, parts)},
        )
        logger.info(
            "Task %s: %d training samples from %s%s",
            name,
            len(records),
            ", ".join(task.train),
            " in equal shares" if task.equal_datasets else "",
        )
    return sources, streams


def _training_records(task: Task) -> list[RecordSequence]:
    """The records of each dataset of a task, without those that ``filter_empty`` leaves out.

    Raises:
        UserError: an unknown dataset, or one of which no record is left.
    """
    parts = []
    for name, records in zip(task.train, _load_datasets(task.train)):
        if task.filter_empty and {"annotations", "label"} & records[0].keys():
            records = records.select(records.annotated())
            if not len(records):
                raise UserError(
                    f"filter_empty leaves no image of dataset {name!r} to task {task.name!r}: none "
                    "has an object that is not a crowd; set filter_empty=False, or leave it out."
                )
        parts.append(records)
    return parts


def check_evaluations(tasks: Mapping[str, Task], best: Iterable[str]) -> dict[str, dict[str, int]]:
    """Find out before training what would fail after it: datasets, evaluators, ``train.best``.

    Returns:
        {task: {evaluation dataset: images}}.

    Raises:
        UserError: an unknown or empty dataset, a name in ``best`` without a task that is evaluated.
    """
    sizes: dict[str, dict[str, int]] = {name: {} for name in tasks}
    for task in tasks.values():
        for evaluation in task.evaluators:
            sizes[task.name][evaluation.dataset] = len(load_records([evaluation.dataset]))
            instantiate(evaluation.evaluator)
            instantiate(evaluation.mapper)
            instantiate(evaluation.tta)
    evaluated = [name for name, task in tasks.items() if task.evaluators]
    for name in best:
        if name.partition("/")[0] not in evaluated or "/" not in name:
            raise UserError(
                f"train.best names {name!r}; write task/metric with one of the evaluated tasks "
                f"{', '.join(evaluated)}."
            )
    return sizes


def build_optimizer(cfg: DictConfig, model: MultiTaskModel) -> torch.optim.Optimizer:
    """The config's optimizer over the model's parameter groups."""
    lazy = OmegaConf.merge(OmegaConf.create(flags={"allow_objects": True}), cfg.optimizer)
    lazy.params.model = None
    params = dict(lazy.params.items())
    params["model"] = model
    target = params.pop("_target_")
    groups = instantiate({"_target_": target, **params})
    rest = {key: value for key, value in lazy.items() if key != "params"}
    return instantiate({**rest, "params": groups})
