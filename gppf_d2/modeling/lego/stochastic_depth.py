"""Stochastic depth: samples skip the residual branch of a unit at random (Huang et al., 2016).

    y = relu(m / (1 - p) branch(x) + shortcut(x)),   m ~ Bernoulli(1 - p), one per sample and unit

In evaluation m / (1 - p) is 1, so that routes, exports and evaluation know nothing of it. A Swin
block has a place for it. A residual block gets it as the activation of its last convolution, after
that one's norm, where Detectron2's blocks have none: their forward stays as it is, and no state key
is added. Draws come from torch's own generator, unit by unit in their order.
"""

from __future__ import annotations

from detectron2.layers import Conv2d
from torch import nn
from torchvision.ops import StochasticDepth

_LAST_CONVOLUTIONS = ("pointwise", "conv3", "conv2")


def linear_rates(last: float, blocks: int) -> list[float]:
    """Probabilities that grow linearly from 0 in the first block to ``last`` in the last one.

    Raises:
        ValueError: a probability that is not in [0, 1).
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate is {last}; give a probability in [0, 1).")
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def stochastic_depth(rate: float) -> nn.Module:
    """Skips a residual branch per sample with probability ``rate``."""
    return StochasticDepth(rate, "row") if rate > 0 else nn.Identity()


def last_convolution(unit: nn.Module) -> Conv2d:
    """The convolution that ends the residual branch of a block of any kind."""
    return next(getattr(unit, name) for name in _LAST_CONVOLUTIONS if hasattr(unit, name))


def drop_branch(unit: nn.Module, rate: float) -> None:
    """Give a residual block stochastic depth, in place; rate 0 leaves it as it is."""
    if rate > 0:
        last_convolution(unit).activation = stochastic_depth(rate)


def draws(module: nn.Module) -> bool:
    """Whether stochastic depth draws random numbers in a training call of the module."""
    return any(isinstance(part, StochasticDepth) and part.p > 0 for part in module.modules())


def keep_all_branches(module: nn.Module) -> None:
    """End stochastic depth in a module and its children: what does not train computes what it
    computes in evaluation."""
    for part in module.modules():
        if isinstance(part, StochasticDepth):
            part.p = 0.0
