"""Several indexes as one sequence, parts of it, and what the engine reads without records."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from gppf_d2.data.index import catalog, concatenate, open_records, places
from gppf_d2.engine import setup
from gppf_d2.engine.errors import UserError
from gppf_d2.tasks.repeats import repeat_factors
from gppf_d2.tasks.spec import Task

NAMES = ("index_test_a", "index_test_b", "index_test_labels", "index_test_empty")


def objects(*categories: int, crowd: int = 0) -> list[dict]:
    return [{"category_id": category, "iscrowd": crowd} for category in categories]


CONTENT = {
    NAMES[0]: [
        {"file_name": "a0", "annotations": objects(0, 0, 2)},
        {"file_name": "a1", "annotations": []},
        {"file_name": "a2", "annotations": objects(1, crowd=1)},
    ],
    NAMES[1]: [{"file_name": "b0", "annotations": objects(1)}, {"file_name": "b1"}],
    NAMES[2]: [{"file_name": "l0", "label": 4}, {"file_name": "l1", "label": 0}],
    NAMES[3]: [],
}


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path_factory.mktemp("index")))
        patch.setattr(places, "_RUN", places._Run())
        patch.setattr(catalog, "_OPENED", {})
        for name, records in CONTENT.items():
            DatasetCatalog.register(name, lambda records=records: records)
        yield
        places._RUN.leave()
        for name in CONTENT:
            DatasetCatalog.remove(name)
            MetadataCatalog.get(name)
            MetadataCatalog.remove(name)


@pytest.fixture()
def both():
    return concatenate([open_records(NAMES[0]), open_records(NAMES[1])])


def test_a_concatenation_is_the_records_of_its_parts(both):
    expected = CONTENT[NAMES[0]] + CONTENT[NAMES[1]]
    assert len(both) == 5 and list(both) == expected
    assert [both[i] for i in range(-5, 5)] == expected * 2
    assert both[3]["file_name"] == "b0" and both[np.int64(4)] == expected[4]
    assert list(both.categories()) == [[0, 0, 2], [], [1], [1], []]
    assert both.annotated().tolist() == [True, False, False, True, False]
    for index in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            both[index]


def test_slices_and_selections_are_sequences_of_the_same_records(both):
    expected = CONTENT[NAMES[0]] + CONTENT[NAMES[1]]
    assert list(both[1:4]) == expected[1:4] and list(both[::-2]) == expected[::-2]
    chosen = both.select([4, 0, 0])
    assert list(chosen) == [expected[4], expected[0], expected[0]]
    assert list(chosen.categories()) == [[], [0, 0, 2], [0, 0, 2]]
    kept = both.select(both.annotated())
    assert [record["file_name"] for record in kept] == ["a0", "b0"]
    assert kept.annotated().all() and list(pickle.loads(pickle.dumps(kept))) == list(kept)
    assert not len(both[5:]) and not both[5:].annotated().size


def test_a_label_counts_as_an_object():
    records = open_records(NAMES[2])
    assert list(records.categories()) == [[4], [0]] and records.annotated().all()


def task(**fields) -> Task:
    mapper = OmegaConf.create({"_target_": "builtins.dict"})
    return Task(name="t", train=NAMES[:2], batch_size=1, head={}, mapper=mapper, **fields)


def built(**fields):
    cfg = OmegaConf.create({"input": {"pixel_format": "RGB"}})
    sources, streams = setup.build_data({"t": task(**fields)}, ["t"], 0, cfg)
    return sources["t"].records, streams["t"]


def test_the_engine_joins_datasets_and_leaves_out_empty_images_on_request():
    records, stream = built()
    assert len(records) == stream.size == 5
    records, stream = built(filter_empty=True)
    assert [record["file_name"] for record in records] == ["a0", "b0"] and stream.size == 2


def test_repeat_factors_come_from_columns():
    records, stream = built(repeat_threshold=1.0)
    factors = repeat_factors([{0, 2}, set(), {1}, {1}, set()], 1.0)
    assert stream.repeats == sum(round(factor * 2**32) for factor in factors)


def test_an_empty_dataset_is_refused_with_its_name():
    with pytest.raises(UserError, match=NAMES[3]):
        setup.load_records([NAMES[3]])


def test_filter_empty_is_true_or_false():
    with pytest.raises(ValueError, match="filter_empty is 'yes'"):
        task(filter_empty="yes")
