"""The task average written down slowly: in one process, one rank and one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn


def task_average(
    parameters: Mapping[str, nn.Parameter], micro_losses: Sequence[Sequence[Callable[[], Tensor]]]
) -> tuple[dict[str, Tensor | None], dict[str, int]]:
    """g[p] = 1/|S_p| * sum over the ranks in S_p of g_i[p], with g_i summed over the micro-steps.

    Args:
        parameters: name -> parameter; their gradients are None afterwards.
        micro_losses: per rank its micro-steps, each a function that computes the loss.

    Returns:
        Averaged gradients (None without a contributor) and |S_p|.
    """
    total: dict[str, Tensor | None] = dict.fromkeys(parameters)
    counts = dict.fromkeys(parameters, 0)
    for losses in micro_losses:
        for parameter in parameters.values():
            parameter.grad = None
        for loss in losses:
            loss().backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                counts[name] += 1
                before = total[name]
                total[name] = parameter.grad if before is None else before + parameter.grad
            parameter.grad = None
    average = {n: None if g is None else g / counts[n] for n, g in total.items()}
    return average, counts
