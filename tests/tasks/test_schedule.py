"""Schedules: exact shares, no state, one task per rank, and sentences for what cannot be meant."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest

from gppf_d2.tasks.schedule import POLICIES, Schedule, allocate_ranks

PAPER = {"in21k": 4, "coco": 2.5, "lvis": 2.5, "o365": 4, "oi": 4, "ade": 1, "stuff": 2, "voc": 1}
ABC = {"a": 0.5, "b": 0.3, "c": 0.2}


def chi_square(counts: Counter, expected: dict[str, float]) -> float:
    assert set(counts) <= set(expected)
    return sum((counts[task] - n) ** 2 / n for task, n in expected.items())


@pytest.mark.parametrize("policy", ["sampled", "stratified"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_rank_alone_meets_the_weights(policy: str, world_size: int) -> None:
    schedule = Schedule(ABC, world_size, policy, seed=3)
    columns = zip(*(schedule.tasks_at(i) for i in range(6000)))
    for column in columns:
        expected = {task: 6000 * weight for task, weight in ABC.items()}
        assert chi_square(Counter(column), expected) < 13.8  # 2 degrees, p = 0.001


def test_sampled_ranks_are_independent() -> None:
    schedule = Schedule(ABC, 2, "sampled", seed=1)
    pairs = Counter("".join(schedule.tasks_at(i)) for i in range(9000))
    expected = {x + y: 9000 * ABC[x] * ABC[y] for x in ABC for y in ABC}
    assert chi_square(pairs, expected) < 26.1  # 8 degrees, p = 0.001


def test_consecutive_iterations_are_independent() -> None:
    for policy in ("sampled", "stratified", "per_batch"):
        schedule = Schedule({"a": 1, "b": 1}, 1, policy, seed=2)
        drawn = [schedule.tasks_at(i)[0] for i in range(4001)]
        pairs = Counter(x + y for x, y in zip(drawn, drawn[1:]))
        assert chi_square(pairs, dict.fromkeys(["aa", "ab", "ba", "bb"], 1000)) < 16.3


@pytest.mark.parametrize("weights", [PAPER, ABC, {"a": 1, "b": 1}, {"a": 0.1, "b": 0.2, "c": 0.7}])
@pytest.mark.parametrize("world_size", [1, 2, 5, 8, 10, 56])
def test_stratified_counts_are_floor_or_ceil_of_the_share(weights: dict, world_size: int) -> None:
    schedule = Schedule(weights, world_size, "stratified", seed=5)
    total = sum(Fraction(str(w)) for w in weights.values())
    for iteration in range(150):
        counts = Counter(schedule.tasks_at(iteration))
        assert sum(counts.values()) == world_size
        for task, weight in weights.items():
            wanted = world_size * Fraction(str(weight)) / total
            assert counts[task] in (math.floor(wanted), math.ceil(wanted)), (iteration, task)


def test_stratified_deals_whole_shares_without_exception() -> None:
    schedule = Schedule({"a": 0.1, "b": 0.2, "c": 0.7}, 10, "stratified")
    assert all(Counter(schedule.tasks_at(i)) == Counter(a=1, b=2, c=7) for i in range(200))
    assert len({schedule.tasks_at(i) for i in range(200)}) > 100  # but not always to the same ranks


def test_per_batch_runs_one_task_everywhere() -> None:
    schedule = Schedule(ABC, 4, "per_batch")
    rows = [schedule.tasks_at(i) for i in range(3000)]
    assert all(len(row) == 4 and len(set(row)) == 1 for row in rows)
    counts = Counter(row[0] for row in rows)
    assert chi_square(counts, {task: 3000 * w for task, w in ABC.items()}) < 13.8


@pytest.mark.parametrize(
    ("weights", "world_size", "counts"),
    [
        ({"a": 1}, 3, [3]),
        ({"a": 1, "b": 1}, 2, [1, 1]),
        ({"a": 1, "b": 1}, 3, [2, 1]),
        ({"a": 1, "b": 2}, 3, [1, 2]),
        ({"a": 0.1, "b": 0.2, "c": 0.7}, 10, [1, 2, 7]),
        ({"a": 100, "b": 1, "c": 1}, 4, [2, 1, 1]),
        ({"a": 100, "b": 1, "c": 1}, 3, [1, 1, 1]),
        ({"a": 5, "b": 3, "c": 1}, 7, [4, 2, 1]),
        ({"a": 1e-9, "b": 1}, 2, [1, 1]),
        (PAPER, 8, [1] * 8),
        (PAPER, 21, [4, 3, 2, 4, 4, 1, 2, 1]),
        (PAPER, 56, [11, 7, 7, 11, 11, 2, 5, 2]),
    ],
)
def test_allocation_table(weights: dict, world_size: int, counts: list[int]) -> None:
    ranks = allocate_ranks(weights, world_size)
    assert [len(ranks[task]) for task in weights] == counts
    assert [rank for task in weights for rank in ranks[task]] == list(range(world_size))


def test_pinned_keeps_every_rank_at_its_task() -> None:
    schedule = Schedule(ABC, 5, "pinned", seed=9)
    assert schedule.tasks_at(0) == schedule.tasks_at(12345) == ("a", "a", "a", "b", "c")
    assert schedule.ranks_of(7, "b") == (3,)
    assert schedule.tasks_of(4) == ("c",)
    assert Schedule(ABC, 5, "sampled").tasks_of(4) == ("a", "b", "c")


@pytest.mark.parametrize("policy", POLICIES)
def test_schedule_is_a_pure_function(policy: str) -> None:
    first, second = (Schedule(PAPER, 16, policy, seed=11) for _ in range(2))
    forwards = [first.tasks_at(i) for i in range(40)]
    backwards = [second.tasks_at(i) for i in reversed(range(40))][::-1]
    assert forwards == backwards == [first.tasks_at(i) for i in range(40)]
    for iteration in (0, 7):
        by_task = first.ranks_by_task(iteration)
        assert list(by_task) == list(PAPER)
        for task, ranks in by_task.items():
            assert ranks == first.ranks_of(iteration, task) == tuple(sorted(ranks))
            assert all(first.tasks_at(iteration)[rank] == task for rank in ranks)
        assert sum(map(len, by_task.values())) == 16


@pytest.mark.parametrize("policy", ["sampled", "stratified", "per_batch"])
def test_another_seed_is_another_schedule(policy: str) -> None:
    one, other = (Schedule(PAPER, 8, policy, seed=seed) for seed in (0, 1))
    assert [one.tasks_at(i) for i in range(20)] != [other.tasks_at(i) for i in range(20)]


def test_sampled_schedule_is_frozen() -> None:
    schedule = Schedule(ABC, 6, "sampled", seed=0)
    assert "".join(schedule.tasks_at(0) + schedule.tasks_at(10**9)) == "babaabacaabb"
    schedule = Schedule(ABC, 6, "stratified", seed=0)
    assert "".join(schedule.tasks_at(0) + schedule.tasks_at(10**9)) == "baabcacaabab"


def test_wanted_share_does_not_depend_on_the_scale_of_the_weights() -> None:
    small = Schedule({"a": 0.25, "b": 0.75}, 2)
    large = Schedule({"a": 1, "b": 3}, 2)
    assert small.wanted_share() == large.wanted_share() == {"a": 0.25, "b": 0.75}
    assert [small.tasks_at(i) for i in range(50)] == [large.tasks_at(i) for i in range(50)]


def test_fingerprint_tells_schedules_apart() -> None:
    variants = [
        Schedule(ABC, 4),
        Schedule(ABC, 3),
        Schedule(ABC, 4, seed=1),
        Schedule(ABC, 4, "stratified"),
        Schedule(ABC | {"a": 0.6}, 4),
        Schedule(dict(reversed(ABC.items())), 4),
        Schedule({"x" if t == "a" else t: w for t, w in ABC.items()}, 4),
    ]
    assert len({schedule.fingerprint() for schedule in variants}) == len(variants)
    assert Schedule(ABC, 4).fingerprint() == variants[0].fingerprint()


def test_one_process_with_several_tasks_lacks_partners() -> None:
    assert Schedule(ABC, 1).lacks_partners
    assert not Schedule(ABC, 2).lacks_partners
    assert not Schedule({"a": 1}, 1).lacks_partners


def test_refusals_name_the_value_and_the_way_out() -> None:
    with pytest.raises(ValueError, match="'random'.*sampled, stratified, pinned, per_batch"):
        Schedule(ABC, 2, "random")
    with pytest.raises(ValueError, match="3 tasks .a, b, c.* there are 2; start more processes"):
        Schedule(ABC, 2, "pinned")
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="'b' is .* must be a positive number"):
            Schedule({"a": 1, "b": weight}, 2)
    with pytest.raises(ValueError, match="at least one task"):
        Schedule({}, 2)
    with pytest.raises(ValueError, match="world size is 0"):
        Schedule(ABC, 0)
    with pytest.raises(KeyError, match="no task 'd'; it has a, b, c"):
        Schedule(ABC, 2).ranks_of(0, "d")
