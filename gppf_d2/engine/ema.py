"""An exponential moving average of the model's parameters, for evaluation and export.

The average is a function of parameters that are equal on all ranks after every step, so it needs no
exchange. Buffers (running statistics) are averages already and are taken from the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from gppf_d2.engine.errors import UserError


class ParameterEMA:
    """Averages ``e <- d e + (1 - d) p`` with d = min(``decay``, (1 + n) / (10 + n)) at update n.

    Args:
        model: its trainable parameters are averaged.
        decay: in (0, 1), close to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"train.ema_decay is {decay}; give 0 for none or a number below 1.")
        self.decay = decay
        self.updates = 0
        self.average = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present parameters into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [parameters[name] for name in self.average], 1 - decay)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Start again from the model's present parameters."""
        self.updates = 0
        for name, parameter in self._of(model).items():
            self.average[name].copy_(parameter)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry the average inside the block."""
        own = {name: parameter.detach().clone() for name, parameter in self._of(model).items()}
        self._copy(model, self.average)
        try:
            yield
        finally:
            self._copy(model, own)

    def _of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: p for name, p in model.named_parameters() if name in self.average}

    @torch.no_grad()
    def _copy(self, model: nn.Module, source: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._of(model).items():
            parameter.copy_(source[name])

    def state_dict(self) -> dict:
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping) -> None:
        """Load what is there; parameters without an entry (new tasks) keep their own value."""
        self.updates = int(state["updates"])
        for name, value in self.average.items():
            if name in state["average"]:
                value.copy_(state["average"][name])
