"""The task average against its reference, and what it may send when.

One spawned run of three ranks does everything that needs processes; the tests look at its parts.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gppf_d2.distributed.autograd_leaves import leaves
from gppf_d2.distributed.buckets import split_sizes
from gppf_d2.distributed.collective_log import CollectiveLog
from gppf_d2.distributed.groups import ProcessGroups, build_groups
from gppf_d2.distributed.task_average import SyncResult, TaskAverage
from gppf_d2.tasks.schedule import Schedule
from tests.harness import run_distributed
from tests.reference.task_average import task_average

TASKS = ("a", "b", "c", "d")
WORLD_SIZE = 3
# What the ranks 0, 1, 2 run: one each, two alike, all alike (three heads skipped).
SCHEDULES = (("a", "b", "c"), ("d", "a", "d"), ("b", "b", "b"), ("c", "c", "a"))


class UnusedWeight(torch.autograd.Function):
    """Takes part in the graph and brings no gradient for its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Net(nn.Module):
    """Every way in which a parameter can be used or not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1).to(memory_format=torch.channels_last)
        self.always = nn.Linear(4, 5)
        self.twice = nn.Linear(5, 5)
        self.sometimes = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        self.checkpointed = nn.Linear(5, 5)
        self.times_zero = nn.Linear(5, 5)
        self.no_gradient = nn.Linear(5, 5, bias=False)
        self.never = nn.Linear(5, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.controllers = nn.ParameterDict({t: nn.Parameter(torch.randn(4)) for t in TASKS})
        self.heads = nn.ModuleDict({t: nn.Linear(5, 2 + i) for i, t in enumerate(TASKS)})
        self.double()

    def shared(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if not n.startswith("heads.")}

    def head_parameters(self, tasks: tuple[str, ...] = TASKS) -> dict[str, dict[str, nn.Parameter]]:
        return {t: dict(self.heads[t].named_parameters()) for t in tasks}

    def loss(self, task: str, key: str, micro_step: int, reentrant: bool = False) -> Tensor:
        draw = random.Random(f"{key} {micro_step}")
        noise = torch.Generator().manual_seed(draw.randrange(2**31))
        x = torch.randn(2, 3, 4, 4, generator=noise, dtype=torch.float64)
        x = self.always(self.stem(x).mean((2, 3)))
        x = self.twice(self.twice(x).relu())
        u = self.controllers[task].softmax(0)
        for k, unit in enumerate(self.sometimes):
            if draw.random() < 0.4 and (k > 0 or micro_step == 0):
                x = x + u[k] * unit(x).tanh()
        x = checkpoint(self.checkpointed, x, use_reentrant=reentrant)
        x = x + 0.0 * self.times_zero(x)
        x = UnusedWeight.apply(self.frozen(x), self.no_gradient.weight)
        return self.heads[task](x).square().mean()


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def ranks_of(tasks: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {t: tuple(r for r, x in enumerate(tasks) if x == t) for t in TASKS}


def gradients(net: Net) -> dict[str, Tensor | None]:
    return {n: p.grad for n, p in net.named_parameters() if p.requires_grad}


def digest(net: Net) -> str:
    state = hashlib.sha256()
    for name, gradient in gradients(net).items():
        bits = b"none" if gradient is None else gradient.contiguous().numpy().tobytes()
        state.update(name.encode() + bits)
    return state.hexdigest()


def expected(tasks: tuple[str, ...], key: str, micro_steps: int) -> tuple[dict, dict]:
    net = make_net()
    losses = [
        [
            lambda t=t, r=r, m=m: net.loss(t, f"{key} {r}", m) / micro_steps
            for m in range(micro_steps)
        ]
        for r, t in enumerate(tasks)
    ]
    parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
    return task_average(parameters, losses)


def relative_error(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> float:
    """Largest error; infinite where one is None and the other is not."""
    worst = 0.0
    for name, value in wanted.items():
        if (value is None) != (found[name] is None):
            return float("inf")
        if value is not None:
            scale = value.abs().max().clamp(min=1e-6)
            worst = max(worst, ((found[name] - value).abs().max() / scale).item())
    return worst


def step(
    average: TaskAverage, net: Net, tasks: tuple[str, ...], rank: int, key: str, micro_steps: int
) -> SyncResult:
    for parameter in net.parameters():
        parameter.grad = None  # what an optimizer's zero_grad leaves behind
    average.begin(ranks_of(tasks))
    for m in range(micro_steps):
        loss = net.loss(tasks[rank], f"{key} {rank}", m) / micro_steps
        average.backward(loss, last=m == micro_steps - 1)
    return average.finish(torch.tensor([1.0 if rank == 1 else 0.0, float(rank)]))


# --------------------------------------------------------------------- what the three ranks do


def _replace_gradient(parameter: nn.Parameter) -> None:
    """As autograd itself may do: the gradient is another tensor than before."""
    parameter.grad = parameter.grad.clone()


def _reference_cases(rank: int, groups: ProcessGroups) -> list[dict[str, Any]]:
    cases = []
    for bucket_bytes in (25 << 20, 1000, 1):
        net = make_net()
        average = TaskAverage(
            net.shared(), net.head_parameters(), groups, WORLD_SIZE, rank, bucket_bytes
        )
        if bucket_bytes == 1000:
            net.always.weight.register_post_accumulate_grad_hook(_replace_gradient)
        for i, tasks in enumerate(SCHEDULES):
            key, micro_steps = f"{bucket_bytes} {i}", 1 + i % 2
            with CollectiveLog() as log:
                result = step(average, net, tasks, rank, key, micro_steps)
            wanted, counts = expected(tasks, key, micro_steps)
            norm = average.grad_norm(result)
            exact = torch.stack([g.norm() for g in wanted.values() if g is not None]).norm()
            case = {
                "tasks": tasks,
                "buckets": len(average.buckets),
                "labels": [bucket.label for bucket in average.buckets],
                "log": [entry[:5] for entry in log.of_group(groups.gradients)],
                "elsewhere": len(log.entries) - len(log.of_group(groups.gradients)),
                "error": relative_error(gradients(net), wanted),
                "norm_error": abs(norm / exact - 1).item(),
                "counts": result.counts == counts,
                "unused": sorted(n for n, g in gradients(net).items() if g is None),
                "unused_wanted": sorted(n for n, c in counts.items() if c == 0),
                "flags": result.flags.tolist(),
                "digest": digest(net),
                "is_view": all(
                    s.parameter.grad is None
                    or (s.parameter.grad.data_ptr() == s.view.data_ptr())
                    and s.parameter.grad.stride() == s.parameter.stride()
                    for s in average.slots.values()
                ),
            }
            average.clip_(norm.item() / 4, norm)
            case["clipped"] = average.grad_norm(result).item() / norm.item()
            cases.append(case)
        average.close()
    return cases


def _compression_case(rank: int, groups: ProcessGroups) -> dict[str, Any]:
    net = make_net()
    average = TaskAverage(
        net.shared(), net.head_parameters(), groups, WORLD_SIZE, rank, compression="bf16"
    )
    with CollectiveLog() as log:
        result = step(average, net, SCHEDULES[0], rank, "bf16", 1)
    wanted, counts = expected(SCHEDULES[0], "bf16", 1)
    return {
        "error": relative_error(gradients(net), wanted),
        "counts": result.counts == counts,
        "dtypes": {entry.dtype for entry in log.of_group(groups.gradients)},
        "digest": digest(net),
        "flags": result.flags.tolist(),
    }


def _pinned_case(rank: int, groups: ProcessGroups) -> dict[str, Any]:
    schedule = Schedule({"a": 2.0, "b": 1.0}, WORLD_SIZE, policy="pinned")
    groups = build_groups(schedule, rank, timeout=60)
    assert groups.head_ranks == {t: tuple(schedule.ranks_of(7, t)) for t in schedule.tasks}
    tasks = tuple(schedule.tasks_at(0))
    net, task = make_net(), tasks[rank]
    average = TaskAverage(
        net.shared(), net.head_parameters((task,)), groups, WORLD_SIZE, rank, 1000, pinned=True
    )
    with CollectiveLog() as log:
        result = step(average, net, tasks, rank, "pinned", 2)
    wanted, counts = expected(tasks, "pinned", 2)
    exact = torch.stack([g.norm() for g in wanted.values() if g is not None]).norm()
    mine = set(average.slots)
    norm = average.grad_norm(result)
    average.clip_(norm.item() / 2, norm)
    clipped = average.grad_norm(result)
    average.clip_(norm.item(), clipped)  # a limit above the norm changes nothing
    return {
        "error": relative_error(
            {n: g * norm / clipped if g is not None else None for n, g in gradients(net).items()},
            {n: g for n, g in wanted.items() if n in mine},
        ),
        "counts": result.counts == {n: c for n, c in counts.items() if n in mine},
        "task": task,
        "in_head_group": len(log.of_group(groups.heads[task])) if groups.heads[task] else None,
        "labels": [entry.label for entry in log.of_group(groups.gradients)],
        "norm": norm.item(),
        "norm_error": abs(norm / exact - 1).item(),
        "clipped": (clipped / norm).item(),
    }


def _overlap_case(rank: int, groups: ProcessGroups) -> dict[str, Any]:
    """How many buckets have left when the gradient of an early and of a late layer arrives."""
    net = make_net()
    average = TaskAverage(net.shared(), net.head_parameters(), groups, WORLD_SIZE, rank, 1)
    left: dict[str, int] = {}

    def note(name: str) -> None:
        left[name] = sum(bucket.launched for bucket in average.buckets)

    for name in ("stem", "checkpointed"):
        net.get_submodule(name).weight.register_hook(lambda _, name=name: note(name))
    step(average, net, SCHEDULES[0], rank, "overlap", 1)
    return {"left": left, "buckets": len(average.buckets)}


def _refusals(rank: int, groups: ProcessGroups) -> dict[str, str]:
    """Gradients that would be lost raise; every rank issues the same collectives up to there."""
    said = {}
    net = make_net()
    average = TaskAverage(net.shared(), net.head_parameters(), groups, WORLD_SIZE, rank, 1)
    average.begin(ranks_of(("a", "a", "a")))
    try:
        average.backward(net.loss("a", "hidden", 0, reentrant=True))
    except RuntimeError as error:
        said["hidden"] = str(error)
    average.finish()
    average.begin(ranks_of(("a", "a", "a")))
    try:
        average.backward(net.loss("b", "not scheduled", 0), last=False)
    except RuntimeError as error:
        said["not scheduled"] = str(error)
    average.finish()
    average.begin(ranks_of(("a", "a", "a")))
    try:
        average.backward(net.loss("a", "unknown", 0) * nn.Parameter(torch.ones(7)).sum())
    except RuntimeError as error:
        said["unknown"] = str(error)
    average.finish()
    average.close()
    net.always.to(torch.float32).to(torch.float64)
    average.begin(ranks_of(("a", "a", "a")))
    try:
        average.backward(net.loss("a", "moved", 0))
    except RuntimeError as error:
        said["moved"] = str(error)
    return said


def _three_ranks(rank: int, world_size: int) -> dict[str, Any]:
    groups = build_groups(None, rank, timeout=60)
    assert groups.heads == {} and len({groups.gradients, groups.statistics, groups.control}) == 3
    return {
        "cases": _reference_cases(rank, groups),
        "bf16": _compression_case(rank, groups),
        "pinned": _pinned_case(rank, groups),
        "overlap": _overlap_case(rank, groups),
        "refusals": _refusals(rank, groups),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_distributed(_three_ranks, WORLD_SIZE)


# ------------------------------------------------------------------------------------ the tests


def test_i5_task_average_equals_reference(ranks: list[dict]) -> None:
    for rank in ranks:
        for case in rank["cases"]:
            assert case["error"] < 1e-12, case["tasks"]
            assert case["counts"]


def test_i3_unused_is_none(ranks: list[dict]) -> None:
    for rank in ranks:
        for case in rank["cases"]:
            assert case["unused"] == case["unused_wanted"]
            assert {"never.weight", "no_gradient.weight"} <= set(case["unused"])
            assert "times_zero.weight" not in case["unused"], "a zero gradient counts"
            for task in set(TASKS) - set(case["tasks"]):
                assert {f"heads.{task}.weight", f"controllers.{task}"} <= set(case["unused"])


def test_i1_gradients_are_bit_equal_on_all_ranks(ranks: list[dict]) -> None:
    for cases in zip(*(rank["cases"] for rank in ranks)):
        assert len({case["digest"] for case in cases}) == 1
    assert len({rank["bf16"]["digest"] for rank in ranks}) == 1


def test_i2_same_collectives_on_all_ranks(ranks: list[dict]) -> None:
    for cases in zip(*(rank["cases"] for rank in ranks)):
        assert cases[0]["log"] == cases[1]["log"] == cases[2]["log"]
        assert all(case["elsewhere"] == 0 for case in cases)


def test_one_collective_a_bucket_and_none_for_skipped_heads(ranks: list[dict]) -> None:
    for case in ranks[0]["cases"]:
        ran = [f"head {task}" for task in TASKS if task in case["tasks"]]
        wanted = [label for label in case["labels"] if label.startswith((*ran, "shared"))]
        assert [entry[4] for entry in case["log"]] == wanted, "fixed order, heads first"
    assert ranks[0]["cases"][0]["buckets"] == 6, "four heads, shared, a small last one"
    parameters = sum(p.requires_grad for p in make_net().parameters())
    assert ranks[0]["cases"][-1]["buckets"] == parameters, "one each"


def test_head_of_one_rank_is_broadcast_of_several_summed(ranks: list[dict]) -> None:
    for case in ranks[0]["cases"]:
        for op, _, _, _, label in case["log"]:
            task = label.split()[1]
            alone = label.startswith("head") and case["tasks"].count(task) == 1
            assert op == ("broadcast_" if alone else "allreduce_"), label


def test_gradients_are_views_with_the_strides_of_their_parameters(ranks: list[dict]) -> None:
    assert all(case["is_view"] for rank in ranks for case in rank["cases"])


def test_flags_are_summed_over_ranks(ranks: list[dict]) -> None:
    assert all(case["flags"] == [1.0, 3.0] for rank in ranks for case in rank["cases"])
    assert all(rank["bf16"]["flags"] == [1.0, 3.0] for rank in ranks)


def test_norm_and_clipping(ranks: list[dict]) -> None:
    for rank in ranks:
        for case in rank["cases"]:
            assert case["norm_error"] < 1e-12
            assert case["clipped"] == pytest.approx(0.25, rel=1e-4)


def test_bf16_halves_the_wire_and_counts_exactly(ranks: list[dict]) -> None:
    for rank in ranks:
        case = rank["bf16"]
        assert case["dtypes"] == {"bfloat16"}
        assert case["counts"]
        assert 1e-5 < case["error"] < 2**-6


def test_pinned_heads_reduce_inside_their_group(ranks: list[dict]) -> None:
    for rank in ranks:
        case = rank["pinned"]
        assert case["error"] < 1e-5 and case["counts"]
        assert all(label.startswith("shared") for label in case["labels"])
        assert case["norm_error"] < 1e-12, "every head counts once"
        assert case["clipped"] == pytest.approx(0.5, rel=1e-4)
    assert len({rank["pinned"]["norm"] for rank in ranks}) == 1
    sent = sorted((rank["pinned"]["task"], rank["pinned"]["in_head_group"]) for rank in ranks)
    assert sent == [("a", 1), ("a", 1), ("b", None)]


def test_buckets_leave_while_backward_runs(ranks: list[dict]) -> None:
    for rank in ranks:
        case = rank["overlap"]
        heads = 2 * len(TASKS)
        assert heads <= case["left"]["checkpointed"] < case["left"]["stem"] < case["buckets"]


def test_gradients_that_would_be_lost_raise(ranks: list[dict]) -> None:
    for rank, case in enumerate(ranks):
        said = case["refusals"]
        assert "checkpointed" in said["hidden"] and "use_reentrant=False" in said["hidden"]
        assert f"heads.b.bias got a gradient on rank {rank}" in said["not scheduled"]
        assert "does not know" in said["unknown"] and "[7]" in said["unknown"]
        assert "always." in said["moved"] and "moved or cast" in said["moved"]


def alone(net: Net) -> TaskAverage:
    return TaskAverage(net.shared(), net.head_parameters(), ProcessGroups(), 1, 0)


def test_i4_alone_is_plain_autograd_without_collectives() -> None:
    net, plain = make_net(), make_net()
    average = alone(net)
    average.begin(ranks_of(("b",)))
    with CollectiveLog("refuse"):
        for m in range(2):
            average.backward(net.loss("b", "alone", m) / 2, last=m == 1)
            (plain.loss("b", "alone", m) / 2).backward()
        result = average.finish(torch.tensor([3.0]))
        norm = average.grad_norm(result)
    for (name, p), q in zip(net.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
        assert not p.requires_grad or result.counts[name] == (p.grad is not None)
    assert result.flags.tolist() == [3.0]
    total = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1e9)
    assert norm.item() == pytest.approx(total.item(), rel=1e-12)
    assert average.buckets == []


@pytest.mark.parametrize("tasks", SCHEDULES)
def test_virtual_ranks_equal_the_reference(tasks: tuple[str, ...]) -> None:
    net = make_net()
    average = alone(net)
    average.begin(ranks_of(tasks))
    for rank, task in enumerate(tasks):
        if rank:
            average.next_virtual_rank()
        for m in range(2):
            average.backward(net.loss(task, f"virtual {rank}", m) / 2, last=m == 1)
    result = average.finish()
    wanted, counts = expected(tasks, "virtual", 2)
    assert relative_error(gradients(net), wanted) < 1e-12
    assert result.counts == counts and result.counts["always.weight"] == 3


def test_moving_the_model_after_set_up_is_noticed_alone_too() -> None:
    net = make_net()
    average = alone(net)
    net.always.to(torch.float32).to(torch.float64)
    average.begin(ranks_of(("a",)))
    average.backward(net.loss("a", "moved", 0))
    with pytest.raises(AssertionError, match=r"always\.\w+: 0 contributors.*moved"):
        average.finish()


def test_backward_outside_an_iteration_is_left_alone() -> None:
    net = make_net()
    average = alone(net)
    net.loss("a", "probe", 0).backward()
    assert net.always.weight.grad is not None
    average.begin(ranks_of(("a",)))
    assert net.always.weight.grad is None


def test_options_are_checked() -> None:
    net = make_net()
    with pytest.raises(ValueError, match="'fp8'.*'bf16'"):
        TaskAverage(net.shared(), {}, ProcessGroups(), 1, 0, compression="fp8")
    with pytest.raises(ValueError, match="257"):
        TaskAverage(net.shared(), {}, ProcessGroups(), 257, 0, compression="bf16")
    with pytest.raises(ValueError, match="0; give"):
        TaskAverage(net.shared(), {}, ProcessGroups(), 1, 0, bucket_bytes=0)
    weight = net.always.weight
    with pytest.raises(ValueError, match="heads.a.x.*always.weight"):
        TaskAverage({"always.weight": weight}, {"a": {"x": weight}}, ProcessGroups(), 1, 0)
    average = alone(net)
    with pytest.raises(KeyError, match="'d'"):
        average.begin({"a": (0,), "b": (), "c": ()})
    average.begin(ranks_of(("a",)))
    with pytest.raises(ValueError, match="9 flags"):
        average.finish(torch.zeros(9))


def test_leaves_of_a_graph_are_found_once_through_checkpoints() -> None:
    net = make_net()
    found = [id(leaf) for _, leaf in leaves(net.loss("a", "leaves", 0))]
    assert len(found) == len(set(found))
    reached = {n for n, p in net.named_parameters() if id(p) in set(found)}
    assert {"twice.weight", "checkpointed.weight", "times_zero.bias", "controllers.a"} <= reached
    assert not any(name.startswith(("never", "frozen", "heads.b")) for name in reached)


@pytest.mark.parametrize(
    ("sizes", "limit", "small_last", "runs"),
    [
        ([4, 4, 4, 4], 8, False, [2, 2]),
        ([4, 4, 4], 8, False, [2, 1]),
        ([100, 1, 1], 32, False, [1, 2]),
        ([100, 20, 1, 1], 32, True, [1, 1, 2]),
        ([100, 20, 3], 32, True, [1, 2]),
        ([1], 32, True, [1]),
        ([], 32, True, []),
    ],
)
def test_sizes_are_cut_in_order(
    sizes: list[int], limit: int, small_last: bool, runs: list[int]
) -> None:
    assert split_sizes(sizes, limit, small_last) == runs


def _two_ranks_without_shared(rank: int, world_size: int) -> dict[str, Any]:
    """A head alone, mixed dtypes, and nothing shared: flags still travel."""
    groups = build_groups(None, rank, timeout=60)
    torch.manual_seed(0)
    first, second = nn.Linear(3, 2), nn.Linear(2, 1).double()
    heads = {
        "a": {
            f"a.{i}.{n}": p for i, m in enumerate((first, second)) for n, p in m.named_parameters()
        }
    }
    average = TaskAverage({}, heads, groups, world_size, rank)
    average.begin({"a": (0, 1)})
    x = torch.full((1, 3), float(rank + 1))
    average.backward(second(first(x).double()).sum())
    result = average.finish(torch.tensor([float(rank)]))
    dist.barrier()
    return {
        "weight": first.weight.grad.tolist(),
        "counts": set(result.counts.values()),
        "flags": result.flags.tolist(),
        "buckets": [(b.label, b.flat.dtype == torch.float64) for b in average.buckets],
        "row": (second.weight.detach().float() * 1.5).T.expand(2, 3).tolist(),
    }


def test_dtypes_have_buckets_of_their_own_and_flags_need_no_shared_part() -> None:
    for result in run_distributed(_two_ranks_without_shared, 2):
        torch.testing.assert_close(torch.tensor(result["weight"]), torch.tensor(result["row"]))
        assert result["counts"] == {2} and result["flags"] == [1.0]
        labels = [("head a bucket 0", True), ("head a bucket 1", False), ("shared bucket 0", False)]
        assert result["buckets"] == labels
