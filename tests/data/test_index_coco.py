"""Records from the index equal those of Detectron2's reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from gppf_d2.data.index import CocoJsonSource, open_records, open_source
from gppf_d2.data.index import json_stream as stream

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TRIANGLE = [1, 2, 30.25, 4, 5.5, 60.0]
BOX = [10.0, 20.0, 30.5, 40.125]


def everything() -> dict:
    """A file with what COCO's format allows, and what its users make of it."""
    images = [
        {"id": 9, "height": 48, "width": 64, "file_name": 'dir/}, {, "images": [.jpg', "url": ""},
        {"id": 2, "height": 30, "width": 20, "file_name": "schön ✓.png", "neg": [7, 3], "tag": "a"},
        {"id": 5, "height": 10, "width": 10, "file_name": "/absolute/empty.jpg", "neg": []},
        {"id": 4, "height": 10, "width": 12, "file_name": "crowds.jpg", "tag": {"k": [{}, {}]}},
    ]
    annotations = [
        {"bbox": BOX, "segmentation": [TRIANGLE]},
        {"bbox": [1, 2, 3, 4], "segmentation": [TRIANGLE, [0, 0, 1, 1], [*TRIANGLE, 7, 8]]},
        {"bbox": BOX, "segmentation": [[0, 0, 1, 1]], "note": "left out: two points"},
        {"bbox": BOX, "segmentation": {"size": [48, 64], "counts": [10, 20, 3042]}, "iscrowd": 1},
        {"bbox": BOX, "segmentation": {"size": [48, 64], "counts": "PPYo0"}, "iscrowd": 1},
        {"bbox": BOX, "segmentation": [], "keypoints": [1, 2, 2, 3, 4, 0], "num_keypoints": 1},
        {"bbox": BOX, "keypoints": []},
        {"bbox": [1.5, 2, 3, 4, 45.0], "group": 1},
        {"iscrowd": 0, "group": -5, "text": '}, {"id": "\\"}, {'},
        {"bbox": BOX, "iscrowd": True, "group": 2**40, "area": float("nan")},
        {"bbox": BOX, "iscrowd": 2, "group": 0},
    ]
    owners, classes = [9, 2, 9, 4, 4, 2, 9, 9, 2, 2, 9], [3, 90, 7, 7, 3, 90, 3, 3, 7, 90, 3]
    for number, entry in enumerate(annotations):
        entry.setdefault("iscrowd", 0)
        entry.update(id=100 - number, image_id=owners[number], category_id=classes[number])
    del annotations[0]["iscrowd"]
    annotations.append({"id": 1, "image_id": 777, "category_id": 3, "bbox": BOX, "iscrowd": 0})
    return {
        "info": {"description": "[{}], {"}, "licenses": [{"id": 1}, {"id": 2}], "version": 1.5e1,
        "annotations": annotations, "images": images, "more": [1, [2], "x"], "none": [],
        "categories": [{"id": 90, "name": "z"}, {"id": 3, "name": "b"}, {"id": 7, "name": "a"}],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path / "index"))
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def written(folder: Path, content: dict | None = None, indent: int | None = None) -> str:
    path = folder / "instances.json"
    path.write_text(json.dumps(everything() if content is None else content, indent=indent))
    return str(path)


@pytest.mark.parametrize("piece", [1 << 22, 300, 40])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("parser", ["orjson", "standard library"])
def test_every_feature_equals_load_coco_json(tmp_path, monkeypatch, piece, indent, parser):
    monkeypatch.setattr(stream, "PIECE", piece)
    monkeypatch.setattr(stream, "SMALLEST_PIECE", min(piece, 1 << 14))
    if parser == "standard library":
        monkeypatch.setattr(stream, "orjson", None)
    else:
        pytest.importorskip("orjson")
    path = written(tmp_path, indent=indent)
    expected = load_coco_json(path, "root/images", "index_test_coco")
    records = open_source(CocoJsonSource(path, "root/images", "index_test_coco"))
    assert list(records) == expected
    counts = [a["segmentation"]["counts"] for a in records[1]["annotations"]]
    assert list(map(type, counts)) == [bytes, str]


def test_extra_keys_are_kept_and_category_lists_are_contiguous(tmp_path):
    path = written(tmp_path)
    source = CocoJsonSource(path, "i", "", ("group", "text"), ("tag",), ("neg",))
    plain = load_coco_json(path, "i", "index_test_extra", ["group", "text"])
    for record, tag, neg in zip(plain, ["a", {"k": [{}, {}]}, None, None], [[1, 0], [], [], []]):
        record["neg"] = neg
        if tag is not None:
            record["tag"] = tag
    assert list(open_source(source)) == plain


def test_coco_url_names_folder_and_file(tmp_path):
    content = everything()
    for image in content["images"]:
        image["coco_url"] = f"http://images.org/train2017/{image['id']}.jpg"
    path = written(tmp_path, content)
    records = open_source(CocoJsonSource(path, "coco", file_name_key="coco_url"))
    assert [record["file_name"] for record in records] == [
        f"coco/train2017/{number}.jpg" for number in (2, 4, 5, 9)
    ]


def test_image_ids_may_be_texts(tmp_path):
    content = everything()
    for entry in content["images"] + content["annotations"]:
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"id {entry[key]}"
    path = written(tmp_path, content)
    expected = load_coco_json(path, "i", "index_test_texts")
    assert [record["image_id"] for record in expected] == ["id 2", "id 4", "id 5", "id 9"]
    assert list(open_source(CocoJsonSource(path, "i"))) == expected


def test_a_file_without_annotations_and_one_without_images(tmp_path):
    content = everything()
    del content["annotations"]
    path = written(tmp_path, content)
    records = open_source(CocoJsonSource(path, "i"))
    assert list(records) == load_coco_json(path, "i", "index_test_bare")
    assert not records.annotated().any()
    content["images"] = []
    assert len(open_source(CocoJsonSource(written(tmp_path, content), "i"))) == 0


def test_of_repeated_images_the_last_one_counts(tmp_path):
    content = everything()
    content["images"].append({"id": 5, "height": 1, "width": 2, "file_name": "second.jpg"})
    path = written(tmp_path, content)
    records = open_source(CocoJsonSource(path, "i"))
    assert list(records) == load_coco_json(path, "i", "index_test_twice")
    assert records[2]["file_name"] == "i/second.jpg"


def test_categories_and_annotated_without_records(tmp_path):
    records = open_source(CocoJsonSource(written(tmp_path), "i"))
    expected = [[a["category_id"] for a in record["annotations"]] for record in records]
    assert list(records.categories()) == expected
    normal = [any(not a.get("iscrowd") for a in record["annotations"]) for record in records]
    assert records.annotated().tolist() == normal == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["annotations"][0].update(category_id=4), "category id 4"),
        (lambda c: c["annotations"][0].update(category_id="3"), "category_id '3'"),
        (lambda c: c["annotations"][0].update(bbox=[]), "empty 'bbox'"),
        (lambda c: c["annotations"][0].update(id=99), "annotation id 99 twice"),
        (lambda c: c["annotations"][0].update(ignore=1), "'ignore'"),
        (lambda c: c["annotations"][0].pop("image_id"), "KeyError 'image_id'"),
        (lambda c: c["annotations"].append(3), "not COCO's"),
        (lambda c: c["images"][0].update(id="nine"), "types int, str"),
        (lambda c: c["images"][0].update(height=4.5), "height 4.5"),
        (lambda c: c["images"][1].update(neg=[8]), "category id 8"),
        (lambda c: c["categories"].append({"id": 3, "name": "c"}), "some twice"),
        (lambda c: c.pop("categories"), "no 'categories'"),
        (lambda c: c.pop("images"), "no 'images'"),
    ],
)
def test_a_faulty_file_gets_one_sentence_with_its_path(tmp_path, change, sentence):
    content = everything()
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=sentence) as raised:
        open_source(CocoJsonSource(path, "i", category_lists=("neg",)))
    assert path in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 60, 700, -1])
def test_a_truncated_file_is_refused(tmp_path, cut):
    path = Path(written(tmp_path))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="put the complete file there"):
        open_source(CocoJsonSource(str(path), "i"))


def test_datasets_of_register_coco_instances_are_read_as_a_stream(tmp_path, monkeypatch):
    path = written(tmp_path)
    register_coco_instances("index_test_d2", {}, path, "images")
    expected = DatasetCatalog.get("index_test_d2")
    metadata = MetadataCatalog.get("index_test_d2").as_dict()
    MetadataCatalog.remove("index_test_d2")
    monkeypatch.setattr("detectron2.data.datasets.coco.load_coco_json", None)
    assert list(open_records("index_test_d2")) == expected
    found = MetadataCatalog.get("index_test_d2")
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert found.get(key) == metadata[key]


def test_other_classes_than_registered_are_refused(tmp_path):
    MetadataCatalog.get("index_test_classes").set(thing_classes=["b", "a", "y"])
    with pytest.raises(ValueError, match="other categories"):
        open_source(CocoJsonSource(written(tmp_path), "i", "index_test_classes"))
    MetadataCatalog.remove("index_test_classes")


@pytest.mark.skipif(not (DATA / "coco128").is_dir(), reason=f"no coco128 in {DATA}")
@pytest.mark.parametrize("name", ["coco128_train", "coco128_val"])
def test_real_photographs_equal_detectron2s_reader(name):
    from gppf_d2.data.catalog import coco128

    coco128.register(os.fspath(DATA))
    if name == "coco128_train":
        source = MetadataCatalog.get(name)
        expected = load_coco_json(source.json_file, source.image_root, name)
    else:
        expected = DatasetCatalog.get(name)
    assert list(open_records(name)) == expected
