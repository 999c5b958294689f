"""Keep the buffers of heads equal on all ranks: the mean over the ranks that ran the head.

Norms in heads never synchronise: BatchNorm in a head normalises with the batch
of its own rank, so its running statistics differ between the ranks that ran it and stay behind on
those that did not. After every iteration each buffer becomes b = 1/|S| sum_{i in S} b_i with S the
contributors of the task, the rule of the task average. Integer buffers (``num_batches_tracked``)
take the mean of their contributors, rounded.

ONE all_reduce serves all heads that ran in the iteration; where nobody ran a head nothing of it is
sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from gppf_d2.distributed.groups import ProcessGroups


class HeadBuffers:
    """Averages the persistent buffers of heads.

    Args:
        heads: modules of the tasks that this rank holds, in the same order on all ranks of a group.
        groups: the run's process groups; without a gradient group nothing is ever sent.
        rank: this process.
        pinned: a rank holds one head, reduced inside its task's group.
    """

    def __init__(
        self, heads: Mapping[str, nn.Module], groups: ProcessGroups, rank: int, pinned: bool = False
    ) -> None:
        self.groups, self.rank, self.pinned = groups, rank, pinned
        self.buffers = {task: _persistent_buffers(head) for task, head in heads.items()}

    @torch.no_grad()
    def average(self, ranks_of: Mapping[str, Sequence[int]]) -> None:
        """Average the buffers of the heads that ran.

        Collective: all ranks must call (in pinned mode: all ranks of each task).

        Args:
            ranks_of: the ranks that ran each task in this iteration, the same mapping on every
            rank.
        """
        if self.groups.gradients is None:
            return
        tasks = [task for task, buffers in self.buffers.items() if buffers and ranks_of.get(task)]
        if not tasks:
            return
        group = self.groups.heads.get(tasks[0]) if self.pinned else self.groups.gradients
        if group is None:
            return
        buffers = [(task, buffer) for task in tasks for buffer in self.buffers[task]]
        shares = [
            buffer.double().flatten() / len(ranks_of[task])
            if self.rank in ranks_of[task]
            else buffer.new_zeros(buffer.numel(), dtype=torch.float64)
            for task, buffer in buffers
        ]
        flat = torch.cat(shares)
        dist.all_reduce(flat, group=group)
        start = 0
        for _, buffer in buffers:
            mean = flat[start : start + buffer.numel()].view_as(buffer)
            buffer.copy_(mean if buffer.is_floating_point() else mean.round())
            start += buffer.numel()


def _persistent_buffers(module: nn.Module) -> list[torch.Tensor]:
    kept = set(module.state_dict(keep_vars=True))
    return [buffer for name, buffer in module.named_buffers() if name in kept]
