"""Any folder of images as records: files at any depth, tars, links, and what is refused."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gppf_d2.data.index import ImageFilesSource, open_images
from gppf_d2.data.mappers.reading import load_image, read_image


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images: in the root, two levels below it, and in tars at both."""
    root = tmp_path / "images"
    names = ["b.png", "a.png", "sub/img_2.png", "sub/img_10.png", "sub/deep/x.PNG"]
    for seed, name in enumerate([*names, ".hidden.png", "sub/.cache/y.png"]):
        picture(root / name, seed)
    (root / "sub" / "notes.txt").write_text("no image")
    (root / "sub" / "folder.png").mkdir()
    packed = tmp_path / "packed"
    for seed, name in enumerate(["00.png", "01.png", "dir/00.png", "02.png"]):
        picture(packed / name, 100 + seed)
    (packed / "00.json").write_text("{}")
    for place, members in (("sub/set-1.tar", ["01.png", "00.json", "00.png"]), ("z.tar", None)):
        with tarfile.open(root / place, "w") as tar:
            for member in members or ["dir/00.png", "02.png"]:
                tar.add(packed / member, member)
    return root


ORDER = [
    "a.png", "b.png", "z.tar:02.png", "z.tar:dir/00.png", "sub/img_10.png", "sub/img_2.png",
    "sub/set-1.tar:00.png", "sub/set-1.tar:01.png", "sub/deep/x.PNG",
]  # fmt: skip


def test_files_at_any_depth_and_members_of_tars_are_records_in_a_fixed_order(folder: Path) -> None:
    records = open_images(folder)
    assert [record["file_name"] for record in records] == [f"{folder}/{name}" for name in ORDER]
    assert [record["image_id"] for record in records] == list(range(9))
    assert set(records[0]) == {"file_name", "image_id"}
    assert not records.annotated().any() and list(records.categories()) == [[]] * 9
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    for index, seed in ((0, 1), (2, 103), (6, 100), (8, 4)):
        expected = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        assert (read_image(records[index], "RGB") == expected).all(), index


def test_a_change_at_any_depth_is_seen(folder: Path) -> None:
    assert len(open_images(folder)) == 9
    picture(folder / "sub" / "deep" / "new.png", 7)
    assert open_images(folder)[-2]["file_name"].endswith("sub/deep/new.png")
    (folder / "z.tar").unlink()
    assert len(open_images(folder)) == 8
    picture(folder / "empty" / "below" / "late.png", 8)
    assert len(open_images(str(folder) + "/")) == 9


def test_links_are_followed_and_a_folder_that_is_reached_twice_counts_once(folder: Path) -> None:
    os.symlink(folder, folder / "sub" / "circle")
    os.symlink(folder / "sub", folder / "twin")
    assert [record["file_name"] for record in open_images(folder)][:4] == [
        f"{folder}/{name}" for name in ORDER[:4]
    ]
    assert len(open_images(folder)) == 9
    (folder.parent / "linked").mkdir()
    os.symlink(folder / "sub", folder.parent / "linked" / "set")
    names = [record["file_name"] for record in open_images(folder.parent / "linked")]
    assert len(names) == 9 and names[0].endswith("linked/set/img_10.png")


def test_a_folder_named_like_a_tar_is_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "x.tar" / "a.png", 0)
    [record] = open_images(tmp_path / "set")
    assert record["file_name"].endswith("x.tar/a.png") and "tar_file" not in record


def test_what_holds_no_image_is_refused_with_its_path(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="z.tar' is a file; name the folder"):
        open_images(folder / "z.tar")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "images.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="none' holds no image of photos.*compressed tars"):
        ImageFilesSource(str(tmp_path / "none"), "photos").write(Ignored())
    whole = (folder / "z.tar").read_bytes()
    (folder / "z.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match="z.tar' is damaged"):
        open_images(folder)


class Ignored:
    """A writer that keeps nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


def test_a_file_that_is_no_image_is_told_in_the_same_words_every_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"nothing")
    words = set()
    for data in (None, b"nothing", bytes(path.read_bytes())):
        with pytest.raises(OSError, match="a.png' .of no known format") as caught:
            load_image({"file_name": str(path)}, data)
        words.add(str(caught.value))
    assert len(words) == 1
