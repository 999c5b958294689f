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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gppf_d2.modeling.head_losses import losses_of
from gppf_d2.modeling.heads.multi_label import MultiLabelHead
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.controller import (
    Gate,
    check_mode,
    check_route,
    draw_gates,
    equal_gates,
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


@dataclass
class _SharedPasses:
    """Passes of the backbone that heads share: their gates, input and features."""

    out_features: list[str]
    passes: list[tuple[list[Gate], list[Tensor], list[dict[str, Tensor]]]] = field(
        default_factory=list
    )

    def find(self, xs: list[Tensor], gates: list[Gate]) -> list[dict[str, Tensor]] | None:
        """The features of an equal pass."""
        for old_gates, old_xs, features in self.passes:
            same_route = len(old_xs) == len(xs) and all(map(equal_gates, old_gates, gates))
            if same_route and all(map(torch.equal, old_xs, xs)):
                return features
        return None


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
        self._shared: _SharedPasses | None = None

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
            return losses_of(head, samples, f"task {task!r}")

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
    def inference(
        self, task: str, samples: list[dict[str, Any]], label: str = ""
    ) -> list[dict[str, Any]]:
        """Run a task's head in evaluation mode; no collective.

        Args:
            task: a task whose head is here.
            samples: what the task's mapper made.
            label: of a multi-label head the one label head to run; "" runs all.

        Returns:
            One dict per sample: {"instances"}, {"sem_seg"}, {"classes"}, {"depth"} or the head's
            own.

        Raises:
            KeyError: the head, or the label, is not here.
        """
        self.check_label(task, label)
        head = self._head(task)
        with training_mode(head, False):
            return head.outputs(samples, [label])[label] if label else head(samples)

    def check_label(self, task: str, label: str) -> None:
        """Refuse a label that the head of a task does not have; "" stands for all it has.

        Raises:
            KeyError: the head, or the label, is not here.
        """
        head = self._head(task)
        labels = list(head.heads) if isinstance(head, MultiLabelHead) else []
        if label and label not in labels:
            theirs = f"its labels are {', '.join(labels)}" if labels else "leave `label` out"
            raise KeyError(
                f"The head of task {task!r}, a {type(head).__name__}, has no label {label!r}; "
                f"{theirs}."
            )

    @contextmanager
    def shared_features(self, tasks: Iterable[str]) -> Iterator[None]:
        """In this block, evaluations of the backbone with equal gates and equal images are one.

        So several heads that follow one route cost one pass for a batch, with the numbers of a pass
        each. Leave the block after every batch: it keeps the features. Heads must not write into
        them.

        Args:
            tasks: whose heads are called in the block; a pass gives what any of them needs.

        Raises:
            KeyError: the head of a task is not here.
        """
        modules = (module for task in tasks for module in self._head(task).modules())
        views = [module for module in modules if isinstance(module, SharedBackbone)]
        wanted = {name for view in views for name in view.out_features}
        before = self._shared
        self._shared = _SharedPasses([n for n in self.backbone.output_shape() if n in wanted])
        try:
            yield
        finally:
            self._shared = before

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
                return self._evaluated(xs, self._gates(task, self.eval_mode, None), out_features)
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

    def _evaluated(
        self, xs: list[Tensor], gates: list[Gate], out_features: Sequence[str]
    ) -> list[dict[str, Tensor]]:
        shared = self._shared
        if shared is None or not set(out_features) <= set(shared.out_features):
            return self.backbone(xs, gates, out_features)[0]
        features = shared.find(xs, gates)
        if features is None:
            features = self.backbone(xs, gates, shared.out_features)[0]
            shared.passes.append((gates, xs, features))
        return [{name: one[name] for name in out_features} for one in features]

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
