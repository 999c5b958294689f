"""When an index is built, by whom, and where it lies."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from gppf_d2.data.index import (
    catalog,
    coco,
    concatenate,
    join_run,
    open_records,
    open_source,
    places,
)
from gppf_d2.data.index.coco import CocoJsonSource
from gppf_d2.data.registration import register_dataset

NAME = "index_test_theirs"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing outside the test's folder; no run yet; nothing registered afterwards."""
    monkeypatch.delenv("GPPF_D2_INDEX_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = places._Run()
    monkeypatch.setattr(places, "_RUN", run)
    monkeypatch.setattr(catalog, "_OPENED", {})
    monkeypatch.setattr(catalog, "_GENERATIONS", {})
    yield
    run.leave()
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def write_json(path: Path, images: int = 3) -> str:
    content = {
        "images": [
            {"id": i, "height": 4, "width": 5, "file_name": f"{i}.jpg"} for i in range(images)
        ],
        "annotations": [
            {"id": i, "image_id": i % images, "category_id": 1, "bbox": [0, 0, i, 2.5],
             "iscrowd": 0, "segmentation": [[0, 0, 1, 1, i, i]]}
            for i in range(7)
        ],
        "categories": [{"id": 1, "name": "one"}],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def folder_of(json_file: str) -> Path:
    return Path(f"{json_file}.index")


def stem_of(json_file: str) -> Path:
    (header,) = folder_of(json_file).glob("*.json")
    return header


@pytest.fixture()
def json_file(tmp_path: Path) -> str:
    return write_json(tmp_path / "data" / "instances.json")


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(coco, "JsonStream", refuse)


def test_the_second_opening_reads_no_json(json_file, monkeypatch):
    first = list(open_source(CocoJsonSource(json_file, "i")))
    forbid_reading(monkeypatch)
    assert list(open_source(CocoJsonSource(json_file, "i"))) == first
    assert list(open_source(CocoJsonSource(json_file, "elsewhere")))[0]["file_name"].startswith("e")


def test_an_index_moves_with_its_data(json_file, monkeypatch):
    first = list(open_source(CocoJsonSource(json_file, "i")))
    forbid_reading(monkeypatch)
    moved = Path(json_file).parent.rename(Path(json_file).parent.with_name("moved"))
    assert list(open_source(CocoJsonSource(str(moved / "instances.json"), "i"))) == first


def test_other_options_make_another_index_beside_the_first(json_file, monkeypatch):
    open_source(CocoJsonSource(json_file, "i"))
    open_source(CocoJsonSource(json_file, "i", annotation_keys=("group",)))
    forbid_reading(monkeypatch)
    open_source(CocoJsonSource(json_file, "i"))
    open_source(CocoJsonSource(json_file, "i", annotation_keys=("group",)))


def test_records_are_pickled_as_a_path(json_file, monkeypatch):
    records = open_source(CocoJsonSource(json_file, "i"))
    forbid_reading(monkeypatch)
    sent = pickle.dumps(records)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(records)
    both = pickle.loads(pickle.dumps(concatenate([records, records[1:]])))
    assert list(both) == [*records, *list(records)[1:]]


def test_every_access_gives_a_fresh_record(json_file):
    records = open_source(CocoJsonSource(json_file, "i"))
    records[0]["annotations"][0]["bbox"][0] = 99
    records[0]["annotations"].clear()
    assert records[0]["annotations"][0]["bbox"] == [0, 0, 0, 2.5]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: write_json(path, images=4),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: _same_size_and_time(path, b'"one"', b'"two"'),
    ],
    ids=["content", "time", "head"],
)
def test_a_changed_source_is_indexed_again(json_file, change, caplog):
    open_source(CocoJsonSource(json_file, "i"))
    change(Path(json_file))
    with caplog.at_level(logging.WARNING):
        records = open_source(CocoJsonSource(json_file, "i"))
    assert len([line for line in caplog.messages if "is made anew" in line]) == 1
    content = json.loads(Path(json_file).read_text())
    assert len(records) == len(content["images"])
    assert records.columns.notes["categories"] == [[1, content["categories"][0]["name"]]]


def _same_size_and_time(path: Path, old: bytes, new: bytes) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def _replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def _place_of(header: Path, array: str) -> int:
    return json.loads(header.read_text())["arrays"][array][2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda header: header.write_text(header.read_text()[:-5]),
        lambda header: header.write_text("[]"),
        lambda header: _replace(header, '"version": 1', '"version": 0'),
        lambda header: os.truncate(header.with_suffix(".arrow"), 1000),
        lambda header: os.truncate(header.with_suffix(".arrow"), 0),
        lambda header: header.with_suffix(".arrow").unlink(),
        lambda header: _flip(header.with_suffix(".arrow"), _place_of(header, "annotations.bbox")),
        lambda header: _replace(header, '"<f8"', '"<i8"'),
        lambda header: _replace(header, '"records": 3', '"records": 4'),
    ],
    ids=[
        "short header", "no header", "version", "short", "empty", "gone", "data", "layout", "count",
    ],
)  # fmt: skip
def test_a_broken_index_is_built_again_with_one_line(json_file, damage, caplog):
    first = list(open_source(CocoJsonSource(json_file, "i")))
    damage(stem_of(json_file))
    with caplog.at_level(logging.WARNING):
        assert list(open_source(CocoJsonSource(json_file, "i"))) == first
    assert len([line for line in caplog.messages if "is made anew" in line]) == 1
    caplog.clear()
    assert list(open_source(CocoJsonSource(json_file, "i"))) == first
    assert not caplog.messages


def test_what_a_killed_builder_left_behind_is_removed(json_file):
    open_source(CocoJsonSource(json_file, "i"))
    header = stem_of(json_file)
    leftover = header.with_name(f".{header.name}.killed")
    leftover.mkdir()
    os.utime(leftover, (1, 1))
    building = leftover.with_suffix(".building")
    building.mkdir()
    header.unlink()
    open_source(CocoJsonSource(json_file, "i"))
    assert not leftover.exists()
    building.rmdir()
    assert sorted(path.suffix for path in header.parent.iterdir()) == [".arrow", ".json", ".lock"]


def test_where_the_data_cannot_be_written_to_the_cache_serves(json_file, tmp_path, monkeypatch):
    folder_of(json_file).write_text("in the way of a folder")
    first = list(open_source(CocoJsonSource(json_file, "i")))
    assert list((tmp_path / "cache").rglob("*.arrow"))
    forbid_reading(monkeypatch)
    assert list(open_source(CocoJsonSource(json_file, "i"))) == first


def test_a_folder_of_ones_own_is_used_alone(json_file, tmp_path, monkeypatch):
    monkeypatch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path / "own"))
    open_source(CocoJsonSource(json_file, "i"))
    assert list((tmp_path / "own").rglob("*.arrow")) and not folder_of(json_file).exists()
    monkeypatch.setenv("GPPF_D2_INDEX_DIR", json_file)
    with pytest.raises(ValueError, match="GPPF_D2_INDEX_DIR"):
        open_source(CocoJsonSource(json_file, "i"))


def test_machines_whose_files_have_other_times_share_a_cache(json_file, tmp_path, monkeypatch):
    monkeypatch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path / "indexes"))
    for machine in (1, 2):
        os.utime(json_file, ns=(machine, machine))
        open_source(CocoJsonSource(json_file, "i"))
    forbid_reading(monkeypatch)
    for machine in (1, 2, 1):
        os.utime(json_file, ns=(machine, machine))
        open_source(CocoJsonSource(json_file, "i"))


def test_what_was_not_opened_for_long_leaves_the_cache(json_file, tmp_path, monkeypatch):
    monkeypatch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path / "indexes"))
    open_source(CocoJsonSource(json_file, "i"))
    (header,) = (tmp_path / "indexes").glob("*/*.json")
    os.utime(header, ns=(1, 1))
    os.utime(json_file, ns=(1, 1))
    open_source(CocoJsonSource(json_file, "i"))
    assert not header.exists() and not header.with_suffix(".arrow").exists()
    assert len(list((tmp_path / "indexes").glob("*/*.arrow"))) == 1


def test_an_old_failure_is_forgotten_by_who_builds_next(tmp_path):
    with places.build_lock(tmp_path / "x.lock", "x") as lock:
        lock.say("failed", "the file is broken")
    with places.build_lock(tmp_path / "x.lock", "x") as lock:
        assert not lock.failure
    assert (tmp_path / "x.lock").read_text() == ""


def test_a_file_that_changes_while_it_is_read_is_refused(json_file, monkeypatch):
    write = CocoJsonSource.write

    def write_and_change(self, writer):
        count = write(self, writer)
        write_json(Path(json_file), images=5)
        return count

    monkeypatch.setattr(CocoJsonSource, "write", write_and_change)
    with pytest.raises(ValueError, match="changed while it was read"):
        open_source(CocoJsonSource(json_file, "i"))


def test_a_full_disk_gets_a_sentence(json_file, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(coco.CocoJsonSource, "write", full)
    with pytest.raises(ValueError, match=r"no room for the index.*GPPF_D2_INDEX_DIR"):
        open_source(CocoJsonSource(json_file, "i"))


def test_the_lock_of_another_user_does_not_stop_the_build(json_file, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(places, "open", refuse, raising=False)
    with places.build_lock(folder_of(json_file) / "any.lock", "any") as lock:
        lock.say("at", "1 %")
        assert lock.failure == ""


class Slow:
    """A source that takes its time and counts its builds in a file."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        self.place, self._log, self._fails = str(folder / "slow"), folder / "builds", fails

    def files(self):
        return []

    def identity(self):
        return {"kind": "slow"}

    def write(self, writer):
        with open(self._log, "a") as file:
            file.write("built\n")
        time.sleep(0.5)
        if self._fails:
            raise ValueError("the source is broken")
        writer.append("label", np.arange(1000, dtype=np.int32))
        return 1000

    def decoder(self):
        return decode_slow

    def publish(self, columns):
        pass


def decode_slow(columns):
    return lambda index: {"label": columns["label"].item(index)}


def in_two_processes(work) -> list:
    """What a function returns in two processes at once, or the sentence that it raises."""
    context = multiprocessing.get_context("fork")  # torch need not be imported again
    queue, barrier = context.Queue(), context.Barrier(2)

    def run() -> None:
        barrier.wait()
        try:
            queue.put(work())
        except Exception as error:
            queue.put(str(error))

    processes = [context.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


def test_of_two_processes_one_builds_and_both_open(tmp_path):
    found = in_two_processes(lambda: [r["label"] for r in open_source(Slow(tmp_path))])
    assert found == [list(range(1000))] * 2
    assert (tmp_path / "builds").read_text() == "built\n"


def test_without_file_locks_both_build_and_both_are_right(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(places.fcntl, "flock", unsupported)
    found = in_two_processes(lambda: [r["label"] for r in open_source(Slow(tmp_path))])
    assert found == [list(range(1000))] * 2
    assert (tmp_path / "builds").read_text() == "built\n" * 2
    assert [r["label"] for r in open_source(Slow(tmp_path))] == list(range(1000))


def test_who_waited_for_a_failing_builder_fails_alike_without_trying(tmp_path):
    found = in_two_processes(lambda: list(open_source(Slow(tmp_path, fails=True))))
    assert found == ["the source is broken"] * 2
    assert (tmp_path / "builds").read_text() == "built\n"
    assert len(open_source(Slow(tmp_path))) == 1000  # later ones try


def their_records() -> list[dict]:
    """What columns cannot hold: tuples, arrays, None, mixed keys."""
    return [
        {
            "file_name": f"{i}.jpg",
            "annotations": [
                {"bbox": (1, 2, 3, 4), "category_id": i, "iscrowd": i % 2, 5: {b"x", None}}
            ] * i,
            "array": np.arange(i),
        }
        for i in range(4)
    ]  # fmt: skip


def test_any_dataset_of_the_catalog_is_indexed_whole():
    def load() -> list[dict]:
        MetadataCatalog.get(NAME).thing_classes = ["a", "b", "c", "d"]
        return their_records()

    DatasetCatalog.register(NAME, load)
    records = open_records(NAME)
    for found, expected in zip(records, their_records(), strict=True):
        assert found.pop("array").tolist() == expected.pop("array").tolist()
        assert found == expected
    assert list(records.categories()) == [[], [1], [2, 2], [3, 3, 3]]
    assert records.annotated().tolist() == [False, False, True, False]
    assert list(pickle.loads(pickle.dumps(records)))[2]["file_name"] == "2.jpg"
    # another process would find the index and not call the function
    MetadataCatalog.remove(NAME)
    catalog._OPENED.clear()
    catalog._GENERATIONS.clear()
    open_records(NAME)
    assert MetadataCatalog.get(NAME).thing_classes == ["a", "b", "c", "d"]


def test_a_function_is_called_once_in_a_run_on_a_machine(tmp_path):
    def load() -> list[dict]:
        with open(tmp_path / "calls", "a") as file:
            file.write("called\n")
        return [{"file_name": "a.jpg", "label": 3}]

    DatasetCatalog.register(NAME, load)
    join_run("one")
    assert in_two_processes(lambda: list(open_records(NAME))) == [list(load())] * 2
    assert (tmp_path / "calls").read_text() == "called\n" * 2  # one of them by this test
    assert list(open_records(NAME).categories()) == [[3]]


def test_a_name_registered_again_is_read_again():
    DatasetCatalog.register(NAME, lambda: [{"file_name": "old"}])
    assert list(open_records(NAME)) == [{"file_name": "old"}]
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [{"file_name": "new"}, {"file_name": "newer"}])
    assert list(open_records(NAME)) == [{"file_name": "new"}, {"file_name": "newer"}]


def test_a_process_that_joins_another_run_indexes_anew():
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}])
    join_run("one")
    first = open_records(NAME)
    assert open_records(NAME) is first
    join_run("two")
    second = open_records(NAME)
    assert second.path.exists() and not first.path.exists()
    assert list(second) == list(first)


@pytest.mark.parametrize("with_source", [True, False])
def test_a_missing_file_of_a_registered_dataset_is_explained_once(tmp_path, with_source):
    missing = str(tmp_path / "none.json")
    source = CocoJsonSource(missing, "i") if with_source else None
    register_dataset(NAME, str(tmp_path), Path(missing).read_text, source=source)
    with pytest.raises(FileNotFoundError) as raised:
        open_records(NAME)
    assert str(raised.value).startswith(f"dataset '{NAME}' needs '{missing}', which does not")
    assert str(raised.value).count("needs") == 1


def test_the_folder_of_a_run_is_private_and_goes_with_it(tmp_path):
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}])
    records = open_records(NAME)
    (folder,) = (tmp_path / "cache" / "gppf_d2" / "index" / "runs").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    places._remove_abandoned(folder.parent)  # as the next run does
    assert folder.is_dir()
    places._RUN.leave()
    assert not folder.exists()
    assert records[0] == {"file_name": "a"}  # what is mapped stays


def test_the_folder_of_a_run_whose_processes_were_killed_is_removed(tmp_path):
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}])
    context = multiprocessing.get_context("fork")
    runs = tmp_path / "cache" / "gppf_d2" / "index" / "runs"
    killed = context.Process(target=lambda: (open_records(NAME), os._exit(1)))
    killed.start()
    killed.join()
    (folder,) = runs.iterdir()
    open_records(NAME)
    assert not folder.exists() and len(list(runs.iterdir())) == 1


def test_records_that_cannot_be_pickled_get_a_sentence():
    DatasetCatalog.register(NAME, lambda: [{"a": 1}, {"call": lambda: 0}])
    with pytest.raises(ValueError, match=f"record 1 of dataset '{NAME}'"):
        open_records(NAME)


def test_unknown_and_missing_datasets_say_so(tmp_path):
    with pytest.raises(KeyError, match="index_test_nobody"):
        open_records("index_test_nobody")
    with pytest.raises(FileNotFoundError) as raised:
        open_source(CocoJsonSource(str(tmp_path / "none.json"), "i"))
    assert raised.value.filename == str(tmp_path / "none.json")
