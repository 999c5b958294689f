"""Train and evaluate with Detectron2 alone, as a user of an exported backbone does.

    python stock_training.py lazy CONFIG.py [key=value ...]     as tools/lazyconfig_train_net.py
    python stock_training.py yacs CONFIG.py                     as tools/train_net.py

Nothing of gppf_d2 is imported: the config says what to train and what to start from. A yacs CONFIG
is Python that makes ``cfg``. What the backbone gives right after loading, for `probe_image()`, goes
to ``<output_dir>/first_features.pth``, the metrics to ``metrics.json`` and ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset


def probe_image() -> torch.Tensor:
    """The same picture in every process, [1, 3, 64, 96]."""
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(7))


def save_first_features(model: torch.nn.Module, folder: str) -> None:
    bottom_up = model.backbone.bottom_up
    training = bottom_up.training
    with torch.no_grad():
        features = bottom_up.eval()(probe_image())
    bottom_up.train(training)
    torch.save(features, Path(folder) / "first_features.pth")


def lazy(config_file: str, overrides: list[str]) -> dict:
    """Build everything that the LazyConfig names, train, evaluate."""
    cfg = LazyConfig.apply_overrides(LazyConfig.load(config_file), overrides)
    default_setup(cfg, argparse.Namespace(config_file=config_file, eval_only=False))
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = kind(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    found = {}

    def evaluate() -> dict:
        test = instantiate(cfg.dataloader.test)
        found.update(inference_on_dataset(model, test, instantiate(cfg.dataloader.evaluator)))
        return found

    trainer.register_hooks(
        [
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, evaluate),
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.log_period,
            ),
        ]
    )
    checkpointer.load(cfg.train.init_checkpoint)
    save_first_features(model, cfg.train.output_dir)
    trainer.train(0, cfg.train.max_iter)
    return found


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def yacs(config_file: str) -> dict:
    """Detectron2's default trainer on a CfgNode."""
    cfg = runpy.run_path(config_file)["cfg"]
    default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    save_first_features(trainer.model, cfg.OUTPUT_DIR)
    trainer.train()
    return Trainer.test(cfg, trainer.model)


if __name__ == "__main__":
    way, config, *rest = sys.argv[1:]
    results = lazy(config, rest) if way == "lazy" else yacs(config)
    Path("results.json").write_text(json.dumps(results))
