"""Tasks, schedules and streams: who runs what on which samples, in plain integers.

The cellar of the house: standard library only, no state but positions, so that every rank computes
what every other rank does. ``spec`` says what a task is, ``schedule`` who runs it when, ``stream``
on what.
"""

from gppf_d2.tasks.permutation import KeyedPermutation
from gppf_d2.tasks.random import hash64, uniform
from gppf_d2.tasks.repeats import equal_shares, repeat_factors
from gppf_d2.tasks.schedule import POLICIES, Schedule, allocate_ranks
from gppf_d2.tasks.spec import Evaluation, Task, restrict, tasks_from_config
from gppf_d2.tasks.stream import (
    Assignment,
    Position,
    Stream,
    StreamPlan,
    merge_states,
)

__all__ = [
    "POLICIES",
    "Assignment",
    "Evaluation",
    "KeyedPermutation",
    "Position",
    "Schedule",
    "Stream",
    "StreamPlan",
    "Task",
    "allocate_ranks",
    "equal_shares",
    "hash64",
    "merge_states",
    "repeat_factors",
    "restrict",
    "tasks_from_config",
    "uniform",
]
