"""The checkpoint of a pre-training run as a downstream task sees it: routes, units, heads, classes.

Names of its tensors: ``backbone.<layer>.units.<k>.<stock name>``, ``controllers.<task>``,
``heads.<task>.*``. Reading one leaves tensors in the file until they are used: a joint run's holds
several times what a downstream task takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from gppf_d2.engine.checkpoint import read_checkpoint
from gppf_d2.engine.errors import UserError
from gppf_d2.modeling.lego.controller import check_route, undecided_layers
from gppf_d2.modeling.lego.route import layer_order, read_route_file

DYNAMIC = "dynamic"  # instead of a route: all units
UNIT = re.compile(r"backbone\.(?P<layer>.+?)\.units\.(?P<unit>\d+)\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class PretrainedRun:
    """What the checkpoint of a pre-training run offers.

    Args:
        path: the file.
        state: of its model.
        tasks: their names.
        classes: task -> kind of metadata ("thing_classes", ...) -> class names; empty in
            checkpoints that do not say.
        layers: names of the L layers, in order.
        num_units: N.
        config: of the run, plain data; empty in checkpoints without one.
    """

    path: str
    state: Mapping[str, Tensor]
    tasks: tuple[str, ...]
    classes: Mapping[str, Mapping[str, Sequence[str]]]
    layers: tuple[str, ...]
    num_units: int
    config: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> PretrainedRun:
        """Read a checkpoint of this package; tensors stay in the file until they are used.

        Raises:
            UserError: no such file, damaged, not a checkpoint of a run, or without lego units.
        """
        return cls.of(path, read_checkpoint(path, mmap=True))

    @classmethod
    def of(cls, path: str, content: Mapping[str, Any]) -> PretrainedRun:
        """The same from a checkpoint's content.

        Raises:
            UserError: there are no lego units or no controllers in it.
        """
        state = content["model"]
        found = [match for match in map(UNIT.fullmatch, state) if match]
        tasks = [name.split(".", 1)[1] for name in state if name.startswith("controllers.")]
        if not found or not tasks:
            raise UserError(f"The checkpoint {path!r} holds no lego backbone with controllers.")
        return cls(
            path=path,
            state=state,
            tasks=tuple(tasks),
            classes=content.get("classes") or {},
            layers=tuple(layer_order(match["layer"] for match in found)),
            num_units=1 + max(int(match["unit"]) for match in found),
            config=yaml.safe_load(content.get("config") or "") or {},
        )

    def route(self, choice: str) -> list[int]:
        """The route that ``train.init_route`` names.

        Args:
            choice: a task of the run, a route file, or ``FILE:task``.

        Raises:
            UserError: neither a task nor a file, or a route of another backbone.
        """
        if choice in self.tasks:
            return self.state[f"controllers.{choice}"].argmax(1).tolist()
        path, colon, task = choice.rpartition(":")
        path, task = (path, task) if colon and Path(path).is_file() else (choice, None)
        if not Path(path).is_file() and (path.endswith(".json") or "/" in path):
            raise UserError(
                f"train.init_route: there is no route file {choice!r}; a dynamic run writes one, "
                "routes.json, into its output folder."
            )
        if not Path(path).is_file():
            raise UserError(
                f"train.init_route is {choice!r}, which is neither a task of {self.path!r} (it has "
                f"{', '.join(sorted(self.tasks))}) nor a route file nor {DYNAMIC!r}."
            )
        try:
            units = read_route_file(path, task, self.layers, self.num_units)
            return check_route(units, len(self.layers), self.num_units)
        except ValueError as error:
            raise UserError(f"train.init_route: {error}") from None

    def doubt(self, task: str) -> str:
        """A sentence about the layers in which a task's route is not decided, "" where it is."""
        shares = self.state[f"controllers.{task}"].double().softmax(1)
        layers = [self.layers[index] for index in undecided_layers(shares)]
        if not layers:
            return ""
        return (
            f"The route of {task} is UNDECIDED in {len(layers)} of {len(self.layers)} layers "
            f"({', '.join(layers)}): its choice there is arbitrary."
        )

    def backbone(self, route: Sequence[int] | None) -> dict[str, Tensor]:
        """The backbone's tensors for a model of one unit a layer, or, without a route, of N."""
        units = None if route is None else dict(zip(self.layers, route))
        found: dict[str, Tensor] = {}
        for name, tensor in self.state.items():
            match = UNIT.fullmatch(name)
            if match is None or units is None:
                if name.startswith("backbone."):
                    found[name] = tensor
            elif units[match["layer"]] == int(match["unit"]):
                found[f"backbone.{match['layer']}.units.0.{match['rest']}"] = tensor
        return found

    def kinds(self, route: Sequence[int] | None) -> list[str] | None:
        """``backbone.units`` of the model that a route needs; None where all are stock units.

        Raises:
            UserError: the route passes residual units of several architectures.
        """
        units = (self.config.get("backbone") or {}).get("units")
        if not units or route is None:
            return units
        kinds = sorted({units[unit] for layer, unit in zip(self.layers, route) if layer != "stem"})
        if len(kinds) > 1:
            raise UserError(
                f"The route passes units of several architectures ({', '.join(kinds)}), and one "
                f"unit a layer has one; set train.init_route={DYNAMIC}."
            )
        return kinds
