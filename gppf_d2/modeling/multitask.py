"""The whole model: one lego backbone, a controller and a head per task.

A micro-step, in the engine's words::

    model.begin_micro_step(seed, iteration, micro_step, rank)   # fixes the gates
    losses = model.losses(task, samples)    # the head calls the backbone through its view
    anchor = model.finish_micro_step()      # zero, tied to the end of the norms' chain
    (sum(losses.values()) + anchor).backward()

Contract for ranks with different tasks: each passes the norm positions of all layers exactly once
a micro-step, computing some and joining the rest with count 0, in one order forward and in the
reverse order backward. The anchor makes the backward half hold whatever the head does with its
features.

State keys: ``backbone.<layer>.units.<k>.<stock name>``, ``controllers.<task>``, ``heads.<task>.*``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.controller import (
    Gate,
    check_mode,
    check_route,
    draw_gates,
    gate_generator,
)
from gppf_d2.modeling.lego.recompute import local_statistics, training_mode
from gppf_d2.modeling.view import SharedBackbone, building

logger = logging.getLogger(__name__)

DECIDED = 10.0  # logit of a fixed route's units; the others have 0
EVAL_MODES = ("argmax", "mean", "fixed")  # the others draw noise


@dataclass
class _MicroStep:
    """What is fixed for one micro-step, and what has happened in it."""

    keys: tuple[int, int, int, int] = (0, 0, 0, 0)
    caller: str | None = None
    token: Tensor | None = None


class MultiTaskModel(nn.Module):
    """Backbone, controllers and heads.

    Args:
        backbone: shared by all tasks.
        tasks: names of all tasks; each gets a controller, logits [L, N] that start at 0.
        mode: how gates are drawn in training: "soft", "hard", "fixed" (or "argmax", "mean"); one
            for all tasks, or one per task.
        eval_mode: the same for evaluation; "argmax", "mean" or "fixed".
        fixed_routes: task -> one unit per layer, for "fixed".

    Attributes:
        temperature: tau of the gates, set by the engine.

    Raises:
        ValueError: unknown mode, or a fixed route that is missing or does not fit.
    """

    def __init__(
        self,
        backbone: LegoBackbone,
        tasks: Sequence[str],
        mode: str | Mapping[str, str] = "soft",
        eval_mode: str = "argmax",
        fixed_routes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        layers, units = len(backbone.layer_names), backbone.num_units
        self.controllers = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(layers, units)) for task in tasks}
        )
        self.heads = nn.ModuleDict()
        self.temperature = 1.0
        self.modes = {
            task: check_mode(mode if isinstance(mode, str) else mode[task]) for task in tasks
        }
        self.eval_mode = check_mode(eval_mode)
        if eval_mode not in EVAL_MODES:
            raise ValueError(
                f"The evaluation mode of gates is {eval_mode!r}; choose one of "
                f"{', '.join(EVAL_MODES)}."
            )
        self.fixed_routes = {
            task: check_route(route, layers, units) for task, route in (fixed_routes or {}).items()
        }
        for task in tasks:
            if "fixed" in (self.modes[task], eval_mode) and task not in self.fixed_routes:
                raise ValueError(
                    f"Task {task!r} has gate mode 'fixed' but no entry in fixed_routes."
                )
        with torch.no_grad():
            for task, route in self.fixed_routes.items():
                if self.modes[task] == "fixed":  # evaluation and export follow the logits
                    self.controllers[task][range(layers), route] = DECIDED
        self._step = _MicroStep()

    def add_head(self, task: str, build: Callable[[], nn.Module]) -> None:
        """Build a task's head; `SharedBackbone` views made in it belong to this model and task.

        Args:
            task: one of the model's tasks.
            build: called without arguments.

        Raises:
            KeyError: unknown task.
        """
        if task not in self.controllers:
            raise KeyError(f"No task {task!r}; this model has {', '.join(self.controllers)}.")
        with building(self, task):
            head = build()
        if not any(isinstance(module, SharedBackbone) for module in head.modules()):
            logger.warning(
                "The head of task %s holds no SharedBackbone: it trains no backbone.", task
            )
        self.heads[task] = head

    def begin_micro_step(self, seed: int, iteration: int, micro_step: int, rank: int) -> None:
        """Fix the gates, a function of the four numbers, and forget the previous micro-step."""
        self._step = _MicroStep((seed, iteration, micro_step, rank))

    def losses(self, task: str, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Run a task's head in training mode.

        A batch whose semantic labels are all "ignore" has nothing to learn: cross entropy gives
        NaN, which is replaced by a zero that keeps the graph.

        Collective: all ranks must call it with their task, then `finish_micro_step`.

        Args:
            task: a task whose head is here.
            samples: what the task's mapper made.

        Returns:
            Named scalar losses.

        Raises:
            KeyError: the head is not here.
            TypeError: the head returned no dict of losses.
        """
        head = self._head(task)
        with training_mode(head, True):
            losses = head(samples)
        if not isinstance(losses, dict) or not losses:
            raise TypeError(
                f"The head of task {task!r} returned {type(losses).__name__} in training; "
                "it must return a dict of named losses."
            )
        return _without_empty_losses(losses, head, samples)

    def finish_micro_step(self) -> Tensor:
        """Join what the head left out, and give the anchor to add to the loss.

        Collective: all ranks must call.

        Returns:
            A scalar zero whose backward passes the chain of norm positions.
        """
        step, self._step = self._step, _MicroStep()
        if step.caller is None:
            with training_mode(self.backbone, True):
                step.token = self.backbone.join()
        if step.token is None:
            return next(self.parameters()).new_zeros(())
        return step.token.sum()

    @torch.no_grad()
    def inference(self, task: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run a task's head in evaluation mode; no collective.

        Args:
            task: a task whose head is here.
            samples: what the task's mapper made.

        Returns:
            One dict per sample: {"instances"}, {"sem_seg"}, {"classes"}, {"depth"} or the head's
            own.
        """
        head = self._head(task)
        with training_mode(head, False):
            return head(samples)

    def routes(self) -> dict[str, dict[str, list]]:
        """Per task the gates' "probabilities" [L][N] and their argmax, the "route" [L]."""
        report = {}
        for task, logits in self.controllers.items():
            probabilities = logits.detach().double().softmax(1)
            route = logits.argmax(1).tolist()
            report[task] = {"probabilities": probabilities.tolist(), "route": list(route)}
        return report

    def features(
        self,
        task: str,
        xs: list[Tensor],
        out_features: Sequence[str],
        *,
        training: bool,
        detached: bool = False,
    ) -> list[dict[str, Tensor]]:
        """What a view's call does; heads call the view.

        Args:
            task: whose gates.
            xs: batches [B_i, 3, H_i, W_i].
            out_features: names of the features.
            training: the view's mode.
            detached: run without gradients, beside the training graph.

        Raises:
            RuntimeError: the second training call of one micro-step.
        """
        with training_mode(self.backbone, training):
            if not training:
                gates = self._gates(task, self.eval_mode, None)
                return self.backbone(xs, gates, out_features)[0]
            gates = self._gates(task, self.modes[task], gate_generator(*self._step.keys))
            if detached or not torch.is_grad_enabled():
                return self._beside_the_graph(xs, gates, out_features)
            if self._step.caller is not None:
                raise RuntimeError(
                    f"The head of task {task!r} called the backbone twice in one micro-step (the "
                    f"first call was by {self._step.caller!r}). Call it once, with a list of "
                    "batches for several views; begin_micro_step starts each micro-step."
                )
            self._step.caller = task
            features, self._step.token = self.backbone(xs, gates, out_features)
            return features

    @torch.no_grad()
    def _beside_the_graph(
        self, xs: list[Tensor], gates: Sequence[Gate], out_features: Sequence[str]
    ) -> list[dict[str, Tensor]]:
        with local_statistics(self.backbone):
            return [self.backbone([x], gates, out_features)[0][0] for x in xs]

    def _gates(self, task: str, mode: str, generator: torch.Generator | None) -> list[Gate]:
        route = self.fixed_routes.get(task)
        return draw_gates(self.controllers[task], mode, self.temperature, generator, route)

    def _head(self, task: str) -> nn.Module:
        if task not in self.heads:
            raise KeyError(
                f"No head for task {task!r} here; heads: {', '.join(self.heads) or 'none'}."
            )
        return self.heads[task]


def _without_empty_losses(
    losses: Mapping[str, Tensor], head: nn.Module, samples: Any
) -> dict[str, Tensor]:
    """Turn losses that are NaN because all semantic labels are ignored into zeros with a graph."""
    if not isinstance(samples, list) or not all("sem_seg" in sample for sample in samples):
        return dict(losses)
    ignore = {getattr(module, "ignore_value", None) for module in head.modules()} - {None} or {255}
    empty = torch.stack(
        [torch.stack([(s["sem_seg"] == v).all() for v in ignore]).any() for s in samples]
    ).all()
    return {
        name: torch.where(empty.to(loss.device) & loss.isnan(), torch.zeros_like(loss), loss)
        if len(losses) == 1 or "sem_seg" in name
        else loss
        for name, loss in losses.items()
    }
