"""A pre-trained checkpoint without a pre-training: a config's model with decided random routes."""

from __future__ import annotations

from pathlib import Path

import torch

from gppf_d2.engine import setup
from gppf_d2.engine.checkpoint import FORMAT
from gppf_d2.engine.config import config_text, load_config
from gppf_d2.modeling.multitask import MultiTaskModel


def pretrained(config: Path, path: Path, *overrides: str, seed: int = 0) -> MultiTaskModel:
    """Write a checkpoint in the form of a run's; controllers and running statistics are random.

    Args:
        config: a pre-training config.
        path: where the checkpoint goes.
        *overrides: of the config.
        seed: of the controllers and statistics.

    Returns:
        The model, in evaluation mode.
    """
    cfg = load_config(str(config), ["train.device=cpu", *overrides])
    tasks = setup.build_tasks(cfg)
    model = setup.build_model(cfg, tasks)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.startswith("controllers."):
                value.copy_(3 * torch.randn(value.shape, generator=generator))
            elif name.endswith(("running_mean", "norm.bias")):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    state = {
        "format": FORMAT, "iteration": 7, "model": dict(model.state_dict()), "temperature": 0.01,
        "tasks": list(tasks), "config": config_text(cfg), "classes": setup.class_names(tasks),
        "optimizer": {}, "streams": {},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return model.eval()
