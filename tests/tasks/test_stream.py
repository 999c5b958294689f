"""Streams: bijective orders, exact repeats, slices without gaps, positions that resume anywhere."""

from __future__ import annotations

import json
import math
import random
import time
import tracemalloc
from collections import Counter

import pytest
from detectron2.data.samplers import RepeatFactorTrainingSampler

from gppf_d2.tasks.permutation import KeyedPermutation
from gppf_d2.tasks.repeats import equal_shares, repeat_factors
from gppf_d2.tasks.schedule import POLICIES, Schedule
from gppf_d2.tasks.stream import Position, Stream, StreamPlan, merge_states

SIZES = [1, 2, 3, 4, 5, 7, 16, 23, 100, 1023, 4096, 10007]


def chi_square(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


# ---- the permutation


@pytest.mark.parametrize("size", SIZES)
def test_permutation_is_a_bijection(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        permutation = KeyedPermutation(size, key)
        assert sorted(map(permutation, range(size))) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 7, 10, 100])
def test_every_index_lands_everywhere_equally_often(size: int) -> None:
    keys = 200 * size if size < 100 else 8000
    limit = (size - 1) + 4 * math.sqrt(2 * (size - 1)) + 6
    for index in (0, size // 2, size - 1):
        landed = Counter(KeyedPermutation(size, key)(index) for key in range(keys))
        assert chi_square([landed[i] for i in range(size)]) < limit, index


def test_all_orders_of_a_tiny_set_occur_equally_often() -> None:
    orders = Counter(tuple(map(KeyedPermutation(4, key), range(4))) for key in range(4800))
    assert len(orders) == 24
    assert chi_square(list(orders.values())) < 49.7  # 23 degrees, p = 0.001


def test_neighbours_do_not_stay_neighbours() -> None:
    size = 4999
    order = [KeyedPermutation(size, 3)(i) for i in range(size)]
    steps = Counter((b - a) % size * 20 // size for a, b in zip(order, order[1:]))
    assert chi_square([steps[i] for i in range(20)]) < 43.8
    assert sum(abs(a - b) == 1 for a, b in zip(order, order[1:])) < 12


def test_permutation_refuses_what_is_outside() -> None:
    for index in (-1, 5):
        with pytest.raises(IndexError, match="outside a permutation of 5"):
            KeyedPermutation(5, 0)(index)


def test_permutation_is_frozen() -> None:
    assert list(map(KeyedPermutation(10, 42), range(10))) == [0, 9, 2, 5, 6, 7, 4, 3, 8, 1]


def test_permutation_is_fast_and_needs_no_memory() -> None:
    tracemalloc.start()
    permutation = KeyedPermutation(11_000_000, 1)
    permutation(10_999_999)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000
    best = math.inf
    for start in range(3):
        begin = time.perf_counter()
        for index in range(start, 11_000_000, 2200):
            permutation(index)
        best = min(best, (time.perf_counter() - begin) / 5000)
    print(f"{best * 1e6:.1f} microseconds an index")
    assert best < 50e-6  # ten times what it takes on an idle core


# ---- one stream


@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_holds_each_record_once(size: int) -> None:
    stream = Stream("a", size, seed=1)
    for epoch in (0, 1, 77):
        assert stream.epoch_length(epoch) == size
        order = [stream.index(Position(epoch, offset)) for offset in range(size)]
        assert sorted(order) == list(range(size))


def test_orders_differ_by_seed_task_and_epoch_only() -> None:
    def order(task: str, seed: int, epoch: int) -> tuple[int, ...]:
        stream = Stream(task, 50, seed)
        return tuple(stream.index(Position(epoch, offset)) for offset in range(50))

    variants = {order("a", 0, 0), order("b", 0, 0), order("a", 1, 0), order("a", 0, 1)}
    assert len(variants) == 4
    assert order("a", 0, 0) == order("a", 0, 0)


def test_index_does_not_depend_on_what_was_asked_before() -> None:
    asked = Stream("a", 31, 4, [1 + i / 31 for i in range(31)])
    places = [Position(e, o) for e in range(4) for o in range(31)]
    wanted = [Stream("a", 31, 4, [1 + i / 31 for i in range(31)]).index(p) for p in places]
    shuffled = random.Random(0).sample(range(len(places)), len(places))
    for i in shuffled:
        assert asked.index(places[i]) == wanted[i]


def test_a_record_moves_through_the_epochs() -> None:
    stream = Stream("a", 20, seed=0)
    where = [
        next(o for o in range(20) if stream.index(Position(epoch, o)) == 0) for epoch in range(1000)
    ]
    counts = Counter(where)
    assert chi_square([counts[i] for i in range(20)]) < 43.8  # 19 degrees, p = 0.001


@pytest.mark.parametrize("factors", [None, [0.4, 1.0, 2.5]])
def test_take_and_advance_agree_across_epochs(factors: list[float] | None) -> None:
    stream = Stream("tiny", 3, 0, factors)
    position = Position(0, 0)
    taken, after = stream.take(position, 50)
    assert len(taken) == 50 and len(set(taken)) == 50 and taken == sorted(taken)
    assert all(offset < stream.epoch_length(epoch) for epoch, offset in taken)
    for count in range(50):
        assert stream.advance(position, count) == taken[count]
        assert stream.take(position, count) == (taken[:count], taken[count])
    assert stream.advance(position, 50) == after
    halves = stream.take(*reversed((7, stream.take(position, 43)[1])))
    assert halves == (taken[43:], after)


def test_a_stream_needs_a_record() -> None:
    with pytest.raises(ValueError, match="'a' has no training record"):
        Stream("a", 0, 0)


# ---- repeat factors


def test_repeat_factors_follow_the_formula_of_lvis() -> None:
    records = [["cat", "cat"], ["cat", "dog"], ["dog"], [], *[["car"]] * 16]
    factors = repeat_factors(records, threshold=0.4)
    rare = math.sqrt(0.4 / 0.1)
    assert factors == pytest.approx([rare, rare, rare, 1.0, *[1.0] * 16])
    assert repeat_factors(iter(records), threshold=0.0) == [1.0] * 20
    with pytest.raises(ValueError, match="threshold is 2"):
        repeat_factors(records, threshold=2)


def test_repeat_factors_equal_detectron2s() -> None:
    draw = random.Random(3)
    records = [
        draw.choices(range(40), [1 / (c + 1) ** 2 for c in range(40)], k=draw.randrange(1, 6))
        for _ in range(300)
    ]
    dicts = [{"annotations": [{"category_id": c} for c in record]} for record in records]
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.05)
    assert repeat_factors(records, 0.05) == pytest.approx(theirs.tolist(), rel=1e-6)


def test_equal_shares_give_each_dataset_the_same_sum_and_keep_proportions_within_it() -> None:
    assert equal_shares([2, 6]) == pytest.approx([2.0, 2.0, *[2 / 3] * 6])
    factors = [1.0, 3.0, *[1.0] * 6, 10.0, 10.0]
    scaled = equal_shares([2, 6, 2], factors)
    for part in (scaled[:2], scaled[2:8], scaled[8:]):
        assert sum(part) == pytest.approx(10.0)  # of 30 in all
    assert scaled[1] / scaled[0] == pytest.approx(3.0)
    assert equal_shares([5], [1.0, 2.0, 1.0, 1.0, 1.0]) == [1.0, 2.0, 1.0, 1.0, 1.0]


def test_equal_shares_hold_in_every_epoch_and_follow_seed_and_epoch_alone() -> None:
    sizes = [1200, 600, 118]  # thousands of ImageNet, Objects365 and COCO (MuST, Table 5)
    streams = [Stream("joint", sum(sizes), seed, equal_shares(sizes)) for seed in (0, 0, 1)]
    orders = [[s.index(Position(3, o)) for o in range(s.epoch_length(3))] for s in streams]
    assert orders[0] == orders[1] != orders[2]
    for epoch in range(5):
        length = streams[0].epoch_length(epoch)
        assert abs(length - sum(sizes)) <= 1
        held = [streams[0].index(Position(epoch, offset)) for offset in range(length)]
        shares = [
            sum(start <= index < start + size for index in held) / length
            for start, size in zip((0, 1200, 1800), sizes)
        ]
        assert shares == pytest.approx([1 / 3] * 3, abs=2 / length)
        rare = Counter(index for index in held if index >= 1800)
        assert len(rare) == 118 and set(rare.values()) == {5, 6}  # 1918 / 3 / 118 = 5.4


def test_an_epoch_holds_each_record_floor_or_ceil_of_its_factor() -> None:
    factors = [1.0, 2.0, 1.5, 3.25, 0.3, 1.0, 1.0 + 1e-9, 7.9]
    stream = Stream("lvis", len(factors), 5, factors)
    total: Counter = Counter()
    lengths = set()
    for epoch in range(2000):
        length = stream.epoch_length(epoch)
        lengths.add(length)
        counts = Counter(stream.index(Position(epoch, offset)) for offset in range(length))
        for record, factor in enumerate(factors):
            assert counts[record] in (math.floor(factor), math.ceil(factor))
        total += counts
    assert lengths == {math.floor(sum(factors)), math.ceil(sum(factors))}
    for record, factor in enumerate(factors):
        assert total[record] / 2000 == pytest.approx(factor, abs=0.05)


def test_factors_of_one_change_nothing_but_the_order() -> None:
    stream = Stream("a", 100, 0, [1.0] * 100)
    for epoch in range(20):
        order = [stream.index(Position(epoch, o)) for o in range(stream.epoch_length(epoch))]
        assert sorted(order) == list(range(100))


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 records but 2 repeat factors"):
        Stream("a", 3, 0, [1.0, 1.0])
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="record 1 is .*must be positive"):
            Stream("a", 2, 0, [1.0, bad])
    for bad in ([0.1, 0.1], [1.0, math.inf]):
        with pytest.raises(ValueError, match="between 1 and"):
            Stream("a", 2, 0, bad)


# ---- the plan


def plan_of(world_size: int, policy: str = "sampled", accumulation: int = 1) -> StreamPlan:
    weights = {"a": 2, "b": 1, "c": 1}
    streams = {
        "a": Stream("a", 101, 3),
        "b": Stream("b", 7, 3),
        "c": Stream("c", 20, 3, [1 + (i % 3) / 3 for i in range(20)]),
    }
    schedule = Schedule(weights, world_size, policy, seed=3)
    return StreamPlan(schedule, streams, {"a": 4, "b": 16, "c": 3}, accumulation)


def consumed(plan: StreamPlan, iterations: int) -> dict[str, list[Position]]:
    """Positions of every task in the order of iterations, ranks and micro-steps."""
    order: dict[str, list[Position]] = {task: [] for task in plan.streams}
    for _ in range(iterations):
        for assignment in plan.next():
            for micro_batch in assignment.micro_batches or []:
                order[assignment.task] += micro_batch
    return order


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_ranks_take_consecutive_slices_without_gap_or_overlap(
    policy: str, accumulation: int
) -> None:
    for world_size in (3, 4, 7):
        plan = plan_of(world_size, policy, accumulation)
        for task, order in consumed(plan, 25).items():
            stream = plan.streams[task]
            assert (order, plan.positions[task]) == stream.take(Position(0, 0), len(order))


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_an_epoch_holds_each_sample_once_whatever_the_number_of_ranks(world_size: int) -> None:
    plan = plan_of(world_size)
    order = consumed(plan, 150)["a"]
    first = [plan.streams["a"].index(p) for p in order if p.epoch == 0]
    assert sorted(first) == list(range(101))


def test_a_task_with_fewer_samples_than_a_batch_runs_across_epochs() -> None:
    plan = StreamPlan(Schedule({"a": 1}, 1), {"a": Stream("a", 3, 0)}, {"a": 8})
    [assignment] = plan.next()
    [batch] = assignment.micro_batches
    assert [(p.epoch, p.offset) for p in batch] == [divmod(i, 3) for i in range(8)]
    assert plan.positions["a"] == Position(2, 2)


def test_micro_batches_have_the_batch_size_and_follow_each_other() -> None:
    plan = plan_of(4, accumulation=3)
    for assignment in plan.next():
        assert [len(m) for m in assignment.micro_batches] == [plan.batch_sizes[assignment.task]] * 3


def test_prefetching_with_a_copy_does_not_move_the_plan() -> None:
    plan = plan_of(2)
    plan.next()
    state = plan.state_dict()
    ahead = plan.copy()
    future = [ahead.next() for _ in range(10)]
    assert plan.state_dict() == state and plan.iteration == 1
    assert [plan.next() for _ in range(10)] != state
    assert plan.state_dict() == ahead.state_dict()
    assert [a.task for a in future[0]] == list(plan.schedule.tasks_at(1))


@pytest.mark.parametrize("policy", POLICIES)
def test_i7_resume_goes_on_where_the_plan_stopped(policy: str) -> None:
    for stop in (0, 1, 13):
        whole, half = plan_of(3, policy), plan_of(3, policy)
        consumed(whole, stop), consumed(half, stop)
        state = json.loads(json.dumps(half.state_dict()))
        resumed = plan_of(3, policy)
        resumed.load_state_dict(state)
        assert consumed(resumed, 20) == consumed(whole, 20)
        assert resumed.state_dict() == whole.state_dict()


def test_i7_another_world_size_resumes_at_the_same_positions() -> None:
    before = plan_of(2)
    order = consumed(before, 40)
    after = plan_of(5)
    after.load_state_dict(before.state_dict())
    assert after.iteration == 40 and after.positions == before.positions
    for task, more in consumed(after, 40).items():
        joined = order[task] + more
        assert joined == after.streams[task].take(Position(0, 0), len(joined))[0]


def test_pinned_ranks_may_hold_their_own_stream_only_and_merge_their_states() -> None:
    full = plan_of(3, "pinned")
    plans = []
    for rank in range(3):
        [task] = full.schedule.tasks_of(rank)
        plans.append(StreamPlan(full.schedule, {task: full.streams[task]}, full.batch_sizes))
    for _ in range(9):
        expected = full.next()
        for rank, plan in enumerate(plans):
            assignments = plan.next()
            assert [a.task for a in assignments] == [a.task for a in expected]
            assert assignments[rank].micro_batches == expected[rank].micro_batches
            assert all(a.micro_batches is None for r, a in enumerate(assignments) if r != rank)
    merged = merge_states(plan.state_dict() for plan in plans)
    assert merged == full.state_dict()
    plans[1].load_state_dict(merged)
    assert plans[1].positions == {"b": full.positions["b"]}
    with pytest.raises(AssertionError, match="iterations"):
        merge_states([plans[0].state_dict(), plans[0].state_dict() | {"iteration": 3}])


def test_changed_datasets_and_tasks_are_refused_and_nothing_is_loaded() -> None:
    state = plan_of(2).state_dict()
    streams = {"a": Stream("a", 99, 3), "b": Stream("b", 7, 3), "d": Stream("d", 4, 3)}
    schedule = Schedule({"a": 1, "b": 1, "d": 1}, 2)
    plan = StreamPlan(schedule, streams, {"a": 1, "b": 1, "d": 1})
    plan.next()
    before = plan.state_dict()
    with pytest.raises(ValueError) as caught:
        plan.load_state_dict(state)
    for part in (
        "task 'c' is not in this run",
        "task 'a' had 101 records and has 99 now",
        "task 'd' is not in the checkpoint",
        "--allow-task-changes",
    ):
        assert part in str(caught.value)
    assert plan.state_dict() == before

    other = plan_of(2)
    other.streams["c"] = Stream("c", 20, 3, [1.5] * 20)
    with pytest.raises(ValueError, match="'c' had other repeat factors"):
        other.load_state_dict(state)


def test_allowed_changes_start_fresh_or_with_the_next_epoch() -> None:
    old = plan_of(2)
    consumed(old, 40)
    streams = {"a": Stream("a", 99, 3), "b": Stream("b", 7, 3), "d": Stream("d", 4, 3)}
    schedule = Schedule({"a": 1, "b": 1, "d": 1}, 2)
    plan = StreamPlan(schedule, streams, {"a": 1, "b": 1, "d": 1})
    plan.load_state_dict(old.state_dict(), allow_task_changes=True)
    assert old.positions["a"].offset > 0
    assert plan.positions == {
        "a": Position(old.positions["a"].epoch + 1, 0),
        "b": old.positions["b"],
        "d": Position(0, 0),
    }
    assert plan.iteration == 40


def test_plan_refuses_what_does_not_fit_together() -> None:
    schedule = Schedule({"a": 1}, 1)
    with pytest.raises(ValueError, match="stream for 'b', but the schedule has a"):
        StreamPlan(schedule, {"b": Stream("b", 2, 0)}, {"b": 1})
    with pytest.raises(ValueError, match="'a' has batch size None"):
        StreamPlan(schedule, {"a": Stream("a", 2, 0)}, {})
    with pytest.raises(ValueError, match="accumulation is 0"):
        StreamPlan(schedule, {"a": Stream("a", 2, 0)}, {"a": 1}, accumulation=0)


def test_a_plan_for_millions_of_samples_costs_nothing() -> None:
    weights = {"in21k": 4.0, "o365": 4.0}

    def build() -> StreamPlan:
        streams = {task: Stream(task, 11_000_000, 0) for task in weights}
        plan = StreamPlan(Schedule(weights, 56), streams, {"in21k": 96, "o365": 12})
        plan.next()
        return plan

    tracemalloc.start()
    build()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    best = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        build()
        best = min(best, time.perf_counter() - begin)
    assert best < 0.05
