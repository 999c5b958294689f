"""Gates of the lego layers, drawn from a task's controller (GPPF section 3.2, equation 1).

Legend: L layers, N units of a layer. A controller is one Parameter of logits a [L, N]. With
log p = log_softmax(a), U uniform on (0, 1) and G = -log(-log U)::

    soft    u = softmax((log p + G) / tau)                        every unit runs
    hard    the unit of the largest log p + G alone runs, its gate counts 1 forward and u backward
            (straight-through); gates of units that were not computed get zero gradient
    argmax  the most probable unit;   mean  u = p;   fixed  a given route

All gates of a forward pass are drawn at once, in fp32 and on the CPU, so that a seed means the
same gates everywhere. With N = 1 the gate is exactly 1 and the controller takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gppf_d2.tasks.random import hash64

MODES = ("soft", "hard", "argmax", "mean", "fixed")
# a layer whose two most probable units are closer than this has not decided
UNDECIDED_MARGIN = 0.1


@dataclass(frozen=True)
class Gate:
    """What one layer does in one forward pass.

    Attributes:
        active: indices of the units to compute, ascending.
        weights: their mixing weights u (0-dim, >= 0, with gradient); None stands for exactly 1.
        straight_through: u of the one active unit in hard mode, which gets the gradient of a
            factor 1.
    """

    active: tuple[int, ...]
    weights: tuple[Tensor | None, ...]
    straight_through: Tensor | None = None

    @classmethod
    def single(cls, unit: int, straight_through: Tensor | None = None) -> Gate:
        """The gate that passes one unit unchanged."""
        return cls((unit,), (None,), straight_through)

    @property
    def only(self) -> int | None:
        """The unit that runs alone with weight 1, or None."""
        return self.active[0] if self.weights == (None,) else None


def equal_gates(one: Gate, other: Gate) -> bool:
    """Whether two gates compute the same."""
    pairs = list(zip(one.weights, other.weights))
    return one.active == other.active and all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
    )


@dataclass(frozen=True)
class LinearTemperature:
    """Temperature tau: linear from start to end over a fraction of training, then constant."""

    start: float = 5.0
    end: float = 0.01
    fraction: float = 0.9

    def __post_init__(self) -> None:
        if self.start <= 0 or self.end <= 0 or not 0 <= self.fraction <= 1:
            raise ValueError(
                f"Temperature from {self.start} to {self.end} over {self.fraction} of training: "
                "give positive temperatures and a fraction from 0 to 1."
            )

    def at(self, iteration: int, max_iter: int) -> float:
        """The temperature of an iteration (0 is the first) of ``max_iter``."""
        ramp = self.fraction * max_iter
        progress = min(iteration / ramp, 1.0) if ramp > 0 else 1.0
        return self.start + (self.end - self.start) * progress


def gate_generator(seed: int, iteration: int, micro_step: int, rank: int) -> torch.Generator:
    """CPU generator of a micro-step's gates: a resumed run sees the same, ranks differ."""
    key = hash64("gates", seed, iteration, micro_step, rank)
    return torch.Generator().manual_seed(key % 2**63)


def gumbel_noise(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, fp32 on the CPU; U is kept away from 0 and 1, so it is finite."""
    info = torch.finfo(torch.float32)
    uniform = torch.rand(shape, generator=generator).clamp_(info.tiny, 1 - info.eps)
    return uniform.log_().neg_().log_().neg_()


def draw_gates(
    logits: Tensor,
    mode: str,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    route: Sequence[int] | None = None,
) -> list[Gate]:
    """Draw the gates of all layers.

    Args:
        logits: controller [L, N].
        mode: one of ``MODES``.
        temperature: tau > 0, for soft and hard.
        generator: CPU generator of the noise; None takes torch's default one.
        route: one unit per layer, for ``fixed``.

    Returns:
        One gate per layer.

    Raises:
        ValueError: unknown mode, temperature that is not positive, a route that does not fit.
    """
    check_mode(mode)
    layers, units = logits.shape
    if mode == "fixed":
        return [Gate.single(unit) for unit in check_route(route, layers, units)]
    if units == 1:
        return [Gate.single(0) for _ in range(layers)]
    if mode == "argmax":
        return [Gate.single(unit) for unit in logits.argmax(1).tolist()]
    log_p = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    if mode == "mean":
        return _mixed(log_p.exp())
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature!r}; it must be positive.")
    noisy = log_p + gumbel_noise(log_p.shape, generator).to(log_p)
    gates = torch.softmax(noisy / temperature, dim=1)
    if mode == "soft":
        return _mixed(gates)
    chosen = noisy.detach().argmax(1).tolist()
    values = gates.gather(1, torch.tensor(chosen, device=gates.device)[:, None]).flatten().unbind()
    return [Gate.single(unit, value) for unit, value in zip(chosen, values)]


def _mixed(gates: Tensor) -> list[Gate]:
    layers, units = gates.shape
    values, everyone = gates.flatten().unbind(), tuple(range(units))
    return [Gate(everyone, tuple(values[i * units : (i + 1) * units]), None) for i in range(layers)]


def undecided_layers(probabilities: Tensor) -> list[int]:
    """Layers whose second unit is almost as probable as the first: their argmax is arbitrary.

    Args:
        probabilities: of the units, [L, N].
    """
    if probabilities.shape[1] == 1:
        return []
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return torch.nonzero(first - second < UNDECIDED_MARGIN).flatten().tolist()


def check_mode(mode: str) -> str:
    """The mode itself; ValueError where it is none of ``MODES``."""
    if mode not in MODES:
        raise ValueError(f"Unknown gate mode {mode!r}; choose one of {', '.join(MODES)}.")
    return mode


def check_route(route: Sequence[int] | None, layers: int, units: int) -> list[int]:
    """The route as a list of integers.

    Raises:
        ValueError: it has another number of layers, or names a unit that does not exist.
    """
    route = [] if route is None else [int(unit) for unit in route]
    if len(route) != layers or not all(0 <= unit < units for unit in route):
        raise ValueError(
            f"The route {route} does not fit: give one unit from 0 to {units - 1} for each of the "
            f"{layers} layers."
        )
    return route
