"""The loader: the same batches with any number of workers, corrupt ones replaced, no silent end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data.common import DatasetFromList
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image

from gppf_d2.data.batch import Batch, map_tensors
from gppf_d2.data.loader import LoaderError, TaskSource, TrainLoader, build_train_loader
from gppf_d2.data.samples import kept_generators, seed_generators
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.stream import Position, Stream, StreamPlan

SIZES = {"cls": 23, "seg": 5}
BATCH_SIZES = {"cls": 4, "seg": 3}


def records(task: str, size: int | None = None) -> list[dict]:
    return [{"file_name": f"{task}{i}.jpg", "index": i} for i in range(size or SIZES[task])]


def draw(record: dict) -> dict:
    """A mapper that draws from every global generator."""
    drawn = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
    return {"file_name": record["file_name"], "index": record["index"], "drawn": drawn}


def mix(samples: list[dict]) -> list[dict]:
    """A batch transform that permutes and draws."""
    order = torch.randperm(len(samples)).tolist()
    return [samples[i] | {"mixed": random.random() + np.random.rand()} for i in order]


def make_plan(world_size: int = 1, policy: str = "sampled", accumulation: int = 1) -> StreamPlan:
    streams = {task: Stream(task, size, 7) for task, size in SIZES.items()}
    schedule = Schedule({"cls": 2, "seg": 1}, world_size, policy, seed=7)
    return StreamPlan(schedule, streams, BATCH_SIZES, accumulation)


def make_loader(
    mapper: Callable = draw,
    plan: StreamPlan | None = None,
    rank: Any = 0,
    batch_transform: Callable | None = None,
    **options: Any,
) -> TrainLoader:
    sources = {task: TaskSource(records(task), mapper, batch_transform) for task in SIZES}
    return build_train_loader(plan or make_plan(), rank, sources, seed=7, **options)


def take(loader: TrainLoader, count: int) -> list[Batch]:
    with loader:
        return [next(loader) for _ in range(count)]


def one_task_loader(
    rows: Any, mapper: Callable, batch_size: int = 2, **options: Any
) -> TrainLoader:
    plan = StreamPlan(Schedule({"a": 1}, 1), {"a": Stream("a", len(rows), 0)}, {"a": batch_size})
    return build_train_loader(plan, 0, {"a": TaskSource(rows, mapper)}, seed=0, **options)


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert (a.task, a.iteration, a.micro_step, a.rank) == (
            b.task,
            b.iteration,
            b.micro_step,
            b.rank,
        )
        assert a.positions == b.positions and a.replaced == b.replaced
        assert len(a.samples) == len(b.samples)
        for x, y in zip(a.samples, b.samples):
            assert torch.equal(x.pop("drawn"), y.pop("drawn")) and x == y


def generator_states() -> tuple:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), rest), torch.get_rng_state().tolist()


# ---- what is loaded


def test_batches_follow_the_plan() -> None:
    for rank in (0, 2):
        plan = make_plan(3, accumulation=2)
        reference = plan.copy()
        batches = iter(take(make_loader(plan=plan, rank=rank), 12))
        for iteration in range(6):
            assignment = reference.next()[rank]
            for micro_step, positions in enumerate(assignment.micro_batches):
                batch = next(batches)
                assert (batch.task, batch.iteration) == (assignment.task, iteration)
                assert (batch.micro_step, batch.rank) == (micro_step, rank)
                assert batch.positions == positions
                indices = [sample["index"] for sample in batch.samples]
                assert indices == [reference.streams[batch.task].index(p) for p in positions]
        assert plan.iteration == 0 and plan.positions["cls"] == Position(0, 0)


def test_ranks_together_load_every_sample_of_an_epoch_once() -> None:
    loaded = []
    for rank in range(3):
        for batch in take(make_loader(plan=make_plan(3), rank=rank), 10):
            if batch.task == "cls":
                loaded += [
                    s["index"] for s, p in zip(batch.samples, batch.positions) if p.epoch == 0
                ]
    assert sorted(loaded) == list(range(23))


def test_samples_and_generators_are_the_same_with_any_number_of_workers() -> None:
    def some(num_workers: int) -> list[Batch]:
        loader = make_loader(
            plan=make_plan(2), rank=1, batch_transform=mix, num_workers=num_workers
        )
        return take(loader, 25)

    here = some(0)
    assert {batch.task for batch in here} == {"cls", "seg"}
    drawn = [tuple(sample["drawn"].tolist()) for batch in here for sample in batch.samples]
    assert len(set(drawn)) == len(drawn)
    assert len({column for row in drawn for column in row}) == 3 * len(drawn)
    for num_workers in (1, 3):
        assert_same(pickle.loads(pickle.dumps(here)), some(num_workers))


def draw_more(record: dict) -> dict:
    sample = draw(record)
    return sample | {"more": [random.random(), np.random.rand(), torch.rand(2).tolist()]}


def test_mixing_of_a_batch_is_seeded_by_its_first_position_alone() -> None:
    one, other = (
        take(make_loader(mapper, batch_transform=mix), 10) for mapper in (draw, draw_more)
    )
    mixed = [[(s["index"], s["mixed"]) for s in batch.samples] for batch in one]
    assert mixed == [[(s["index"], s["mixed"]) for s in batch.samples] for batch in other]
    assert len({value for batch in mixed for _, value in batch}) == sum(map(len, mixed))


def test_samples_do_not_depend_on_ranks_batches_or_what_was_drawn_before() -> None:
    alone = {}
    for batch in take(make_loader(plan=make_plan(1)), 30):
        for sample, position in zip(batch.samples, batch.positions):
            alone[batch.task, position] = sample
    random.seed(99), torch.manual_seed(99)
    met = 0
    for batch in take(make_loader(plan=make_plan(4), rank=3, prefetch_factor=4), 8):
        for sample, position in zip(batch.samples, batch.positions):
            if (batch.task, position) in alone:
                met += 1
                assert torch.equal(sample["drawn"], alone[batch.task, position]["drawn"])
    assert met > 10


def test_i7_a_loader_resumed_from_the_plan_goes_on_bitwise() -> None:
    whole = take(make_loader(), 20)
    plan = make_plan()
    for _ in range(8):
        plan.next()
    resumed = make_plan()
    resumed.load_state_dict(plan.state_dict())
    assert_same(whole[8:], take(make_loader(plan=resumed, num_workers=1), 12))


def test_virtual_ranks_share_one_loader() -> None:
    together = take(make_loader(plan=make_plan(3, accumulation=2), rank=range(3)), 18)
    assert [b.rank for b in together[:6]] == [0, 0, 1, 1, 2, 2]
    for rank in range(3):
        alone = take(make_loader(plan=make_plan(3, accumulation=2), rank=rank), 6)
        assert_same([b for b in together if b.rank == rank], alone)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_generators_of_the_process_are_left_alone(num_workers: int) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = generator_states()
    take(make_loader(batch_transform=mix, num_workers=num_workers), 5)
    with pytest.raises(LoaderError):
        next(make_loader(fail_with_key_error))
    assert generator_states() == before


def test_seeds_reach_all_generators_and_kept_ones_go_on() -> None:
    def numbers() -> list[float]:
        return [random.random(), np.random.rand(), *torch.rand(2).tolist()]

    seed_generators("a", 1)
    first, later = numbers(), numbers()
    assert len(set(first + later)) == 8
    seed_generators("a", 1)
    assert numbers() == first
    with pytest.raises(KeyError), kept_generators():
        seed_generators("a", 2)
        assert not set(numbers()) & set(first)
        raise KeyError
    assert numbers() == later


def test_a_pinned_rank_needs_its_own_task_only() -> None:
    plan = make_plan(2, "pinned")
    own = StreamPlan(plan.schedule, {"seg": plan.streams["seg"]}, BATCH_SIZES)
    loader = build_train_loader(own, 1, {"seg": TaskSource(records("seg"), draw)}, seed=7)
    assert {batch.task for batch in take(loader, 4)} == {"seg"}


def test_lists_are_serialised_and_other_datasets_left_alone() -> None:
    rows = records("cls")
    source = TaskSource(rows, draw)
    assert isinstance(source.records, DatasetFromList) and list(source.records) == rows
    source.records[0]["file_name"] = "changed by a careless mapper"
    assert source.records[0] == rows[0]
    assert isinstance(TaskSource(tuple(rows), draw).records, DatasetFromList)
    columns = np.arange(4)
    assert TaskSource(columns, draw).records is columns
    serialised = DatasetFromList(rows)
    assert TaskSource(serialised, draw).records is serialised


def test_sources_that_do_not_fit_are_refused() -> None:
    plan = make_plan()
    cls, seg = (TaskSource(records(task), draw) for task in SIZES)
    with pytest.raises(ValueError, match="'seg' but has no source for it; it has sources for cls"):
        build_train_loader(plan, 0, {"cls": cls}, 0)
    with pytest.raises(ValueError, match="'seg' has 23 records but a stream of 5"):
        build_train_loader(plan, 0, {"cls": cls, "seg": cls}, 0)
    with pytest.raises(ValueError, match="num_workers is -1"):
        build_train_loader(plan, 0, {"cls": cls, "seg": seg}, 0, num_workers=-1)


def test_what_workers_get_can_be_sent_to_a_spawned_process() -> None:
    offset = 5
    loader = one_task_loader(records("cls"), lambda record: record["index"] + offset)
    dataset = pickle.loads(pickle.dumps(loader._loader.dataset))
    keys = iter(loader._loader.sampler)
    for key in (next(keys), next(keys)):
        assert dataset[key].samples == loader._loader.dataset[key].samples


# ---- corrupt samples


def one_tensor(record: dict) -> dict:
    return {"image": torch.zeros(4), "label": 1}


def test_large_batches_of_workers_need_no_higher_limit_of_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    stream = Stream("cls", 4, seed=0)
    plan = StreamPlan(Schedule({"cls": 1}, 1), {"cls": stream}, {"cls": 300})
    source = TaskSource(records("cls", 4), one_tensor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with build_train_loader(plan, 0, {"cls": source}, 0, num_workers=1) as loader:
            assert [len(next(loader).samples) for _ in range(2)] == [300, 300]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def read_image(record: dict) -> dict:
    pixels = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    return draw(record) | {"image": torch.tensor(pixels).permute(2, 0, 1).sum().item()}


@pytest.fixture()
def images(tmp_path: Path) -> list[dict]:
    """Twelve images, four of which are missing, empty, cut off, and text."""
    rows = []
    for index in range(12):
        path = tmp_path / f"image{index:02d}.png"
        noise = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        rows.append({"file_name": str(path), "index": index})
    Path(rows[1]["file_name"]).unlink()
    Path(rows[4]["file_name"]).write_bytes(b"")
    good = Path(rows[7]["file_name"]).read_bytes()
    Path(rows[7]["file_name"]).write_bytes(good[: len(good) // 2])
    Path(rows[9]["file_name"]).write_text("<html>404</html>")
    return rows


def test_corrupt_samples_are_replaced_counted_and_skipped_for_good(images: list[dict]) -> None:
    bad = {images[i]["file_name"] for i in (1, 4, 7, 9)}
    here = take(one_task_loader(images, read_image, 4), 6)
    assert [p for batch in here for p in batch.positions] == [
        Position(*divmod(i, 12)) for i in range(24)
    ]
    replaced = [name for batch in here for name in batch.replaced]
    assert set(replaced) == bad and len(replaced) >= 8
    stream = Stream("a", 12, 0)
    for batch in here:
        assert len(batch.samples) == 4 and len(batch.reasons) == len(batch.replaced)
        for sample, position in zip(batch.samples, batch.positions):
            wanted = images[stream.index(position)]["file_name"]
            assert sample["file_name"] not in bad
            assert wanted in batch.replaced if wanted in bad else sample["file_name"] == wanted
    reasons = dict(zip(replaced, (r for batch in here for r in batch.reasons)))
    assert "FileNotFoundError" in reasons[images[1]["file_name"]]
    assert "UnidentifiedImageError" in reasons[images[9]["file_name"]]
    assert_same(here, take(one_task_loader(images, read_image, 4, num_workers=2), 6))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataset_of_corrupt_samples_ends_with_a_sentence(num_workers: int) -> None:
    rows = [{"file_name": f"/nowhere/{i}.png", "index": i} for i in range(3)]
    loader = one_task_loader(rows, read_image, num_workers=num_workers)
    with pytest.raises(
        ValueError, match="^Task 'a' found no usable sample in 20 attempts"
    ) as caught:
        next(loader)
    for row in rows:
        assert row["file_name"] in str(caught.value)
    assert "failed with FileNotFoundError" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(StopIteration):
        next(loader)


def skip_odd(record: dict) -> dict | None:
    return draw(record) if record["index"] % 2 == 0 else None


def test_a_mapper_may_decline_a_sample() -> None:
    for batch in take(one_task_loader(records("cls"), skip_odd, 8), 4):
        assert len(batch.samples) == 8 and not batch.replaced
        assert all(sample["index"] % 2 == 0 for sample in batch.samples)


def fail_with_key_error(record: dict) -> dict:
    return {"label": record["label"]}


def run_out_of_files(record: dict) -> dict:
    raise OSError(24, "Too many open files")


def fail_to_decode(record: dict) -> dict:
    from torchvision.io import decode_png

    decode_png(torch.zeros(50, dtype=torch.uint8))
    return record


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("mapper", "sentence"),
    [
        (
            fail_with_key_error,
            r"mapper of task '\w+' failed on \w+.jpg: KeyError: 'label', test_loa",
        ),
        (run_out_of_files, r"mapper of task '\w+' failed on \w+.jpg: OSError: .*Too many open"),
        (fail_to_decode, r"no usable sample in 20 attempts.*RuntimeError"),
    ],
)
def test_mistakes_of_the_mapper_are_no_corrupt_samples(
    mapper: Callable, sentence: str, num_workers: int
) -> None:
    with pytest.raises(LoaderError, match=sentence) as caught:
        next(make_loader(mapper, num_workers=num_workers))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None or "20 attempts" in str(caught.value)
    assert not multiprocessing.active_children()


def fail_on_batches(samples: list) -> list:
    raise ValueError("labels are missing")


def test_a_failing_batch_transform_is_named() -> None:
    with pytest.raises(
        LoaderError, match="batch transform of task '.*' failed: ValueError: labels"
    ):
        next(make_loader(batch_transform=fail_on_batches))


# ---- workers


def die(record: dict) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return record


def leave(record: dict) -> dict:
    os._exit(3)


@pytest.mark.parametrize("mapper", [die, leave])
@pytest.mark.timeout(30)
def test_a_worker_that_dies_is_a_sentence_and_no_hang(mapper: Callable) -> None:
    with pytest.raises(LoaderError, match=r"data workers .* cannot go on .*worker.*lower num_work"):
        next(make_loader(mapper, num_workers=2))
    assert not multiprocessing.active_children()


def interrupt_oneself(record: dict) -> dict:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    return draw(record)


def test_workers_leave_signals_to_the_main_process() -> None:
    assert len(take(make_loader(interrupt_oneself, num_workers=1), 4)) == 4


def test_workers_start_late_serve_all_tasks_and_end_when_closed() -> None:
    loader = make_loader(num_workers=2)
    assert not multiprocessing.active_children()
    assert {next(loader).task for _ in range(20)} == {"cls", "seg"}
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    loader.close()
    assert not multiprocessing.active_children()
    with pytest.raises(StopIteration):
        next(loader)


def test_a_forgotten_loader_leaves_no_worker() -> None:
    loader = make_loader(num_workers=1)
    next(loader)
    del loader
    gc.collect()
    assert not multiprocessing.active_children()


def test_preparing_does_not_run_far_ahead(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def note(record: dict) -> dict:
        with log.open("a") as file:
            file.write("x")
        return record

    with one_task_loader(records("cls"), note, 1, num_workers=1, prefetch_factor=3) as loader:
        next(loader)
        time.sleep(0.3)
        assert len(log.read_text()) == 4


# ---- tensors of a batch


class Pair(NamedTuple):
    one: Any
    two: Any


def test_every_tensor_of_a_nest_is_reached_and_the_nest_left_alone() -> None:
    instances = Instances((4, 4))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    instances.gt_masks = BitMasks(torch.ones(1, 4, 4, dtype=torch.bool))
    instances.gt_classes = torch.tensor([3])
    polygons = Instances((4, 4), gt_masks=PolygonMasks([[np.array([0.0, 0, 2, 0, 2, 2])]]))
    nest = [
        {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "instances": instances, "name": "a"},
        {"views": (torch.ones(2), [torch.ones(3)]), "pair": Pair(torch.ones(1), None), "n": 5},
        {"instances": polygons},
    ]
    seen: list[torch.Tensor] = []

    def function(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor.clone()

    batch = Batch("a", 0, 0, nest, [])
    result = map_tensors(batch.samples, function)
    assert len(seen) == 7
    first, second, third = result
    assert first["image"] is not nest[0]["image"] and first["name"] == "a"
    assert isinstance(first["instances"].gt_boxes, Boxes)
    assert isinstance(first["instances"].gt_masks, BitMasks)
    assert first["instances"].gt_boxes.tensor is not instances.gt_boxes.tensor
    assert torch.equal(first["instances"].gt_boxes.tensor, instances.gt_boxes.tensor)
    assert first["instances"].image_size == (4, 4)
    assert isinstance(second["pair"], Pair) and isinstance(second["views"], tuple)
    assert third["instances"].gt_masks.polygons is polygons.gt_masks.polygons
    moved = batch.to("meta")
    assert moved.samples[0]["instances"].gt_boxes.device.type == "meta"
    assert batch.samples[0]["image"].device.type == "cpu" and moved.task == "a"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
def test_pinned_batches_come_out_pinned() -> None:
    [batch] = take(make_loader(num_workers=1, pin_memory=True), 1)
    assert all(sample["drawn"].is_pinned() for sample in batch.samples)
    assert batch.to("cuda").samples[0]["drawn"].is_cuda


def test_pinning_without_a_device_is_harmless() -> None:
    assert len(take(make_loader(pin_memory=True), 2)) == 2


def test_pin_memory_pins_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    batch = Batch("a", 3, 0, [{"image": torch.zeros(2), "label": 4}], [Position(0, 0)])
    pinned = batch.pin_memory()
    assert pinned.samples[0]["image"].tolist() == [1, 1] and pinned.samples[0]["label"] == 4
    assert (pinned.task, pinned.iteration, pinned.positions) == ("a", 3, [Position(0, 0)])


# ---- cost


def test_seeding_a_sample_is_cheap() -> None:
    def seconds_per_sample() -> float:
        begin = time.perf_counter()
        for index in range(200):
            seed_generators("sample", 0, "a", 0, index, 0)
        return (time.perf_counter() - begin) / 200

    with kept_generators():
        best = min(seconds_per_sample() for _ in range(3))
    print(f"{best * 1e6:.0f} microseconds a sample")
    assert best < 500e-6
