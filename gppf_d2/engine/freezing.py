"""Train the parameters that patterns name, and freeze everything else (``train.trainable``).

What no pattern matches gets no gradient: it is in no gradient bucket, no optimizer, no moving
average, and before the first parameter that trains there is no graph at all. A module without a
parameter that trains computes in training what it computes in evaluation: its norms use their
running statistics, which never move and cost no collective, and dropout and stochastic depth in
it are off.

Nothing is replaced. The norms and the dropouts stay what they are, held in evaluation mode; names
and shapes of the state are those of the model that trains whole. So initial weights load before or
after, checkpoints resume, and who evaluates or exports one need not know what was frozen.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MethodType

import torch.distributed as dist
from torch import nn
from torchvision.ops import StochasticDepth

from gppf_d2.distributed.consensus import agree, any_rank
from gppf_d2.engine.errors import UserError
from gppf_d2.modeling.lego.recompute import training_mode
from gppf_d2.modeling.multitask import MultiTaskModel

logger = logging.getLogger(__name__)

# What computes something else in training than in evaluation, and by itself. Other modules ask for
# the mode to choose between losses and predictions: they keep it.
_BY_MODE = (
    nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.MultiheadAttention,
    StochasticDepth,
)  # fmt: skip
_BY_NAME = ("DropPath", "DropBlock2d")  # of other libraries
_SHOWN = 8


@dataclass(frozen=True)
class FreezeReport:
    """What `freeze` did.

    Args:
        trained: names of the parameters that train.
        frozen: names of the others.
        held: names of the norms and dropouts that stay in evaluation mode.
        weights: how many numbers the trained and the frozen parameters have.
    """

    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    held: tuple[str, ...]
    weights: tuple[int, int]

    def __str__(self) -> str:
        """Two lines for the log."""
        total = len(self.trained) + len(self.frozen)
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in self.trained))
        more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
        return (
            f"{len(self.trained)} of {total} parameters train, {self.weights[0]:,} of "
            f"{sum(self.weights):,} numbers: {', '.join(modules[:_SHOWN])}{more}\n"
            f"{len(self.held)} norms and dropouts of frozen modules stay in evaluation mode"
        )


def read_patterns(value: object) -> list[str]:
    """``train.trainable`` as a list of patterns.

    Raises:
        UserError: neither a pattern nor a list of them.
    """
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise UserError(
            f"train.trainable is {value!r}; give a list of patterns of names of parameters, such "
            "as [heads.*], or [] to train all."
        )
    return list(patterns)


def freeze(
    model: MultiTaskModel, patterns: Sequence[str], group: dist.ProcessGroup | None = None
) -> FreezeReport:
    """Let only the parameters that match a pattern train.

    Parameters that do not train anyway (``freeze_at``, momentum copies) do not begin to.

    Collective: all ranks must call.

    Args:
        model: with the heads that this rank holds; it is changed in place.
        patterns: of names of parameters, such as "heads.*" or "backbone.res5.*"; ``*`` stands for
            anything, dots included.
        group: of all ranks, gloo; None in a single process.

    Raises:
        ValueError: on every rank: a pattern that matches nothing on any rank, or a task of which
            nothing trains.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen = {name for name in names if any(fnmatchcase(name, p) for p in patterns)}
    # a pinned rank holds one head: patterns of the others match elsewhere
    found = [any_rank(any(fnmatchcase(n, p) for n in names), group) for p in patterns]
    unmatched = [pattern for pattern, matched in zip(patterns, found) if not matched]
    agree(_no_match(unmatched[0], names) if unmatched else None, group)

    for name, parameter in model.named_parameters():
        if name not in chosen:
            parameter.requires_grad_(False)
    agree(_idle_task(model), group)
    held = list(_frozen_by_mode(model, chosen))
    for _, module in held:
        _hold(module)
    with training_mode(model.backbone, True):
        for layer in model.backbone.layers:
            layer.choose_form()
    return _report(model, [name for name, _ in held])


def _report(model: nn.Module, held: Iterable[str]) -> FreezeReport:
    parameters = dict(model.named_parameters())
    trained = tuple(name for name, parameter in parameters.items() if parameter.requires_grad)
    frozen = tuple(name for name in parameters if name not in set(trained))
    weights = tuple(sum(parameters[n].numel() for n in some) for some in (trained, frozen))
    return FreezeReport(trained, frozen, tuple(held), weights)


def _no_match(pattern: str, names: Sequence[str]) -> str:
    """The sentence for a pattern without a parameter, with names that may have been meant."""
    parts = [name.split(".") for name in names]
    prefixes = {".".join(some[:end]) for some in parts for end in range(1, len(some))}
    known = {prefix: f"{prefix}.*" for prefix in prefixes}
    known |= {part: f"*.{part}.*" for some in parts for part in some[1:-1]}
    known |= {name: name for name in names}
    wanted = pattern.strip("*.")
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    return (
        f"train.trainable has {pattern!r}, which matches no parameter; close to it are "
        f"{', '.join(known[name] for name in near) or 'none'} (names begin with "
        f"{', '.join(dict.fromkeys(some[0] for some in parts))}; * stands for anything)."
    )


def _idle_task(model: MultiTaskModel) -> str | None:
    """The sentence for a task whose steps would change nothing; None where there is none."""
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for task in model.heads:
        reach = ["backbone.", f"heads.{task}."]
        if model.backbone.num_units > 1:
            reach.append(f"controllers.{task}")
        if not any(name.startswith(tuple(reach)) for name in learns):
            return (
                f"train.trainable lets nothing of task {task!r} train; add a pattern such as "
                f"'heads.{task}.*', or leave the task out."
            )
    return None


def _frozen_by_mode(
    module: nn.Module, chosen: set[str], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The norms and dropouts inside modules whose parameters all are left out."""
    names = [prefix + name for name, _ in module.named_parameters()]
    if names and chosen.isdisjoint(names):
        for name, part in module.named_modules(prefix=prefix.rstrip(".")):
            if isinstance(part, _BY_MODE) or type(part).__name__ in _BY_NAME:
                yield name, part
        return
    for name, child in module.named_children():
        yield from _frozen_by_mode(child, chosen, f"{prefix}{name}.")


def _hold(module: nn.Module) -> None:
    """Keep a module in evaluation mode, whatever mode the modules around it are put into."""
    module.eval()
    module.train = MethodType(_stay, module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
