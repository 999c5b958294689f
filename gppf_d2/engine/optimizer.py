"""Optimizer parameter groups, learning rates and the loss scale of fp16.

Controllers (one Parameter [L, N] per task) have no weight decay and a learning-rate multiplier of
their own. The learning rate of a group at an iteration is a pure function: the optimizer's
base rate x the group's ``lr_multiplier`` x the schedule's value, so that a resumed run needs no
scheduler state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

_NORMS = (
    nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
)  # fmt: skip


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    weight_decay_by_name: Mapping[str, float] | None = None,
    controller_lr_multiplier: float = 1.0,
    backbone_lr_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a ``MultiTaskModel`` for a torch optimizer.

    A module of a head says with an attribute ``undecayed = True`` that its own parameters have no
    weight decay, whatever the arguments are.

    Args:
        model: with ``backbone``, ``controllers`` and ``heads``.
        weight_decay: of everything that has no value of its own; None leaves the optimizer's.
        weight_decay_norm: of the parameters of normalisation layers; None treats them as the rest.
        weight_decay_bias: of biases outside normalisation layers; None treats them as the rest.
        weight_decay_by_name: last part of a parameter's name -> its decay, before the other rules;
            a Swin wants {"relative_position_bias_table": 0.0, "absolute_pos_embed": 0.0}.
        controller_lr_multiplier: times the learning rate, for controllers; their decay is 0.
        backbone_lr_multiplier: times the learning rate, for the shared backbone.

    Returns:
        Groups with ``params``, ``param_names``, ``lr_multiplier`` and, where it is set,
        ``weight_decay``.
    """
    groups: dict[tuple, dict[str, Any]] = {}
    by_name = weight_decay_by_name or {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{module_name}.{key}".lstrip(".")
            decay, multiplier = weight_decay, 1.0
            if name.startswith("controllers."):
                decay, multiplier = 0.0, controller_lr_multiplier
            else:
                multiplier = backbone_lr_multiplier if name.startswith("backbone.") else 1.0
                if getattr(module, "undecayed", False) is True:
                    decay = 0.0
                elif key in by_name:
                    decay = by_name[key]
                elif isinstance(module, _NORMS) and weight_decay_norm is not None:
                    decay = weight_decay_norm
                elif key == "bias" and weight_decay_bias is not None:
                    decay = weight_decay_bias
            group = groups.setdefault(
                (decay, multiplier), {"params": [], "param_names": [], "lr_multiplier": multiplier}
            )
            if decay is not None:
                group["weight_decay"] = decay
            group["params"].append(parameter)
            group["param_names"].append(name)
    return list(groups.values())


def named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The optimizer's parameters by name: the key of its state in checkpoints."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"])
    }


class LearningRate:
    """The learning rate of every group as a pure function of the iteration.

    Args:
        optimizer: built from :func:`parameter_groups`; its ``lr`` at construction is the base rate.
        multiplier: maps ``where`` in [0, 1) to a factor (an fvcore ``ParamScheduler``).
        max_iter: iterations of the run.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: Callable[[float], float], max_iter: int
    ) -> None:
        self.optimizer = optimizer
        self.multiplier = multiplier
        self.max_iter = max_iter
        self.base = [group["lr"] for group in optimizer.param_groups]

    def set(self, iteration: int) -> float:
        """Set every group's rate for ``iteration``; return that of a group with multiplier 1."""
        factor = self.multiplier(iteration / max(self.max_iter, 1))
        for group, base in zip(self.optimizer.param_groups, self.base):
            group["lr"] = base * group["lr_multiplier"] * factor
        return self.base[0] * factor


class LossScale:
    """Dynamic loss scale for fp16, decided from the agreed gradient norm, hence equal on all ranks.

    torch's GradScaler looks at each rank's own gradients; here the norm after the task average
    decides, so that no rank skips a step that another one takes.

    Args:
        enabled: False keeps the scale at 1 for ever (fp32 and bf16).
        scale: first scale.
        growth_interval: accepted steps in a row after which the scale doubles.
    """

    def __init__(self, enabled: bool, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.enabled = enabled
        self.scale = scale if enabled else 1.0
        self.growth_interval = growth_interval
        self.good_steps = 0

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be the scale's fault; at 1 it is the run's own."""
        return self.enabled and self.scale > 1.0

    def update(self, finite: bool) -> None:
        """Halve the scale after an overflow, double it after enough good steps."""
        if not self.enabled:
            return
        if not finite:
            self.scale, self.good_steps = self.scale / 2, 0
            logger.warning("Gradients overflowed in fp16: step skipped, loss scale %g", self.scale)
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        if self.enabled:
            self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
