"""Any Detectron2 model and its weights as a teacher, by LazyConfig or YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from gppf_d2.data.catalog import register_all
from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.engine.config import config_text
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo.teacher import (
    CLASS_METADATA,
    Inputs,
    Label,
    Teacher,
    check_labels,
    choose_kind,
    class_names,
    hash_file,
    hash_json,
    number_of_classes,
    on_device,
)


class _Checkpointer(DetectionCheckpointer):
    """Detectron2's reading of weights, which a model must get all of."""

    def _load_model(self, checkpoint: Any) -> Any:
        self.found = super()._load_model(checkpoint)
        return self.found

    def read(self, path: str) -> None:
        """Load a file.

        Raises:
            UserError: a tensor of the model is not in it, or has another shape there.
        """
        self.load(path)
        wrong = [name for name, *_ in self.found.incorrect_shapes]
        names = [key for key in self.found.missing_keys if "num_batches_tracked" not in key]
        names = list(dict.fromkeys([*wrong, *names]))
        if names:
            raise UserError(
                f"The weights '{path}' do not fit the model: {len(names)} of its tensors are "
                f"missing or of another shape, as {names[0]!r}; give the file that belongs to the "
                "config."
            )


class Detectron2Teacher(Teacher):
    """A model of Detectron2, or of a project built on it.

    Args:
        config: a LazyConfig ``.py`` with ``model`` (and ``dataloader.test.mapper``, which says how
            images are read), a ``.yaml``, or a name in Detectron2's model zoo.
        weights: a file, or an address that Detectron2's path manager knows.
        labels: label -> key of the model's output ("instances", "sem_seg", ...).
        overrides: changes to the config: ["KEY", value, ...] for YAML, ["key=value", ...] else.
        short_side: of the resized images, in pixels; 0 takes the config's, -1 does not resize.
        long_side: most pixels of the longer side then.
        image_format: "RGB" or "BGR"; "" takes the config's.
        dataset: registered dataset whose metadata name the classes; "" takes the config's.

    Raises:
        UserError: a file is missing, a config says too little, or weights do not fit.
    """

    def __init__(
        self,
        config: str,
        weights: str,
        labels: Mapping[str, str],
        overrides: Sequence[Any] = (),
        short_side: int = 0,
        long_side: int = 1333,
        image_format: str = "",
        dataset: str = "",
    ) -> None:
        self.config, self.weights = str(config), str(weights)
        self.keys = check_labels(labels, f"The teacher '{config}'")
        self.labels = {name: Label() for name in self.keys}
        if not weights or ("://" not in self.weights and not Path(self.weights).is_file()):
            raise UserError(
                f"There is no file of weights '{self.weights}' for the teacher '{config}'."
            )
        path = _config_file(self.config)
        made = (_read_lazy if path.endswith(".py") else _read_yaml)(path, list(overrides))
        self.model, self.text = made.network.eval(), made.text
        self.datasets = [dataset] if dataset else made.datasets
        self.image_format, reading = image_format or made.image_format, made.reading
        if short_side:
            reading = [T.ResizeShortestEdge(short_side, long_side)] if short_side > 0 else []
        if not self.image_format or reading is None:
            raise UserError(
                f"The config '{config}' does not say how images are read; give the teacher "
                "image_format and short_side."
            )
        self.reading = {"short_side": short_side, "long_side": long_side if short_side > 0 else 0}
        _Checkpointer(self.model, save_to_disk=False).read(self.weights)
        backbone = getattr(self.model, "backbone", None)
        self.divisors = [max(1, getattr(backbone, "size_divisibility", 1))]
        self.mappers = [
            DetectionMapper(False, augmentations=reading, image_format=self.image_format)
        ]
        register_all()
        self.dataset = dataset
        if dataset and dataset not in DatasetCatalog:
            raise UserError(
                f"The teacher '{config}' is to name its classes as dataset {dataset!r}, which is "
                "not registered; mend the name."
            )

    def describe(self) -> dict[str, Any]:
        return {
            "type": "detectron2",
            "source": f"{self.config} {self.weights}",
            "weights_hash": hash_file(self.weights),
            "config_hash": hash_json(self.text),
            "image_format": self.image_format,
            **self.reading,
            "labels": dict(self.keys),
        }

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    def __call__(self, batch: Sequence[Inputs]) -> list[dict[str, Any]]:
        device = next(self.model.parameters()).device
        samples = [sample for (sample,) in on_device(batch, device)]
        return [
            {name: self._pick(name, output) for name in self.keys} for output in self.model(samples)
        ]

    def _pick(self, name: str, output: Mapping[str, Any]) -> Any:
        label = self.labels[name]
        if not label.kind:
            kind = choose_kind(name, output, self.keys[name], f"the model of '{self.config}'")
            count = number_of_classes(self.model, kind, output[kind])
            names = class_names(kind, self.datasets, count)
            if self.dataset and kind in CLASS_METADATA and not names:
                raise UserError(
                    f"The dataset {self.dataset!r} has no names for the {count} classes of "
                    f"'{self.config}'; name the one that it was trained on."
                )
            label = Label(kind, names, count)
            self.labels[name] = label
        return output[label.kind]


def _config_file(config: str) -> str:
    """A file, or one of the model zoo.

    Raises:
        UserError: there is no such config, or it is neither YAML nor a LazyConfig.
    """
    path = config
    if not Path(path).is_file():
        from detectron2 import model_zoo  # imports what not every environment has

        try:
            path = model_zoo.get_config_file(config)
        except RuntimeError:
            raise UserError(
                f"There is no config '{config}', neither here nor in Detectron2's model zoo."
            ) from None
    if not path.endswith((".py", ".yaml", ".yml")):
        raise UserError(f"The config '{config}' is neither a .yaml nor a LazyConfig (.py).")
    return path


@dataclass
class _Model:
    """What a config says.

    Args:
        network: freshly initialised.
        reading: how images are resized; None where the config does not say.
        image_format: "RGB", "BGR", or "" where it does not say.
        datasets: whose metadata may name the classes.
        text: all of it that counts.
    """

    network: nn.Module
    reading: list | None
    image_format: str
    datasets: list[str]
    text: str


def _read_yaml(path: str, overrides: list[Any]) -> _Model:
    cfg = get_cfg()
    cfg.set_new_allowed(True)  # what projects add
    cfg.merge_from_file(path)
    cfg.merge_from_list([*overrides, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    short = cfg.INPUT.MIN_SIZE_TEST
    reading = [T.ResizeShortestEdge(short, cfg.INPUT.MAX_SIZE_TEST)] if short else []
    return _Model(build_model(cfg), reading, cfg.INPUT.FORMAT, list(cfg.DATASETS.TEST), cfg.dump())


def _read_lazy(path: str, overrides: list[Any]) -> _Model:
    cfg = LazyConfig.apply_overrides(LazyConfig.load(path), [str(one) for one in overrides])
    if "model" not in cfg:
        raise UserError(f"The config '{path}' has no `model`; give a LazyConfig of a model.")
    network = instantiate(cfg.model)
    test = (cfg.get("dataloader") or {}).get("test") or {}
    mapper, names = test.get("mapper") or {}, (test.get("dataset") or {}).get("names") or []
    reading = list(instantiate(mapper.augmentations)) if "augmentations" in mapper else None
    image_format = mapper.get("image_format") or getattr(network, "input_format", None) or ""
    text = config_text(OmegaConf.create({"model": cfg.model, "mapper": mapper}))
    return _Model(
        network, reading, image_format, [names] if isinstance(names, str) else list(names),
        re.sub(r" at 0x[0-9a-f]+", "", text),
    )  # fmt: skip
