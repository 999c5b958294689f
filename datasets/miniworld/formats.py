"""Write shots in the formats and folder layouts of the real datasets.

One function per dataset: ImageNet (class folders), COCO (instances JSON: polygons, crowds as RLE),
ADE20K (label PNGs, official and Detectron2's), KITTI (raw drives, 16-bit depth, split lists), VOC
(XML), and pictures without labels, whose truth lies in a folder of its own. Every file goes through
``Folder``, which encodes with fixed settings and notes the digest of what it wrote.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from .scene import CLASSES, FURTHEST, STUFF
from .shot import OTHER, Seen, Shot

DRIVE_DATE, DRIVE_FRAMES = "2000_01_01", 10
DEPTH_UNITS = 256
DEPTH_LOST = 0.3


class Folder:
    """A folder under construction; ``digests`` maps the path of a file to its sha256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[str, str] = {}

    def write(self, name: str, content: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.digests[name] = hashlib.sha256(content).hexdigest()

    def text(self, name: str, lines: Iterable[str]) -> None:
        self.write(name, "".join(line + "\n" for line in lines).encode())

    def jpeg(self, name: str, picture: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
        self.write(name, buffer.getvalue())

    def png(self, name: str, values: np.ndarray) -> None:
        """Lossless; uint8 [H, W] or [H, W, 3], or uint16 [H, W]."""
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG", compress_level=6)
        self.write(name, buffer.getvalue())

    def mat(self, name: str, variables: dict) -> None:
        """A MATLAB 5 file."""
        self.write(name, mat_bytes(variables))


def mat_bytes(variables: dict) -> bytes:
    """Variables as a MATLAB 5 file whose header has no date."""
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    buffer.seek(0)
    buffer.write(b"MATLAB 5.0 MAT-file".ljust(116))
    return buffer.getvalue()


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] along the pixel borders of a mask bool [H, W].

    COCO polygons have no holes: a mask with a hole is cut in two through the hole.
    """
    scale = 4
    padded = np.pad(mask.astype(np.uint8), 1)
    large = np.kron(padded, np.ones((scale, scale), dtype=np.uint8))
    contours, tree = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [c for c, links in zip(contours, tree[0]) if links[3] >= 0]
    if holes:
        column = int(round(holes[0][:, 0, 0].mean() / scale)) - 1
        left, right = mask.copy(), mask.copy()
        left[:, column:], right[:, :column] = False, False
        return polygons(left) + polygons(right)
    result = []
    for contour in contours:
        # The contour runs through the outermost small pixels: rounding takes it to the border.
        corners = np.floor(contour[:, 0] / scale + 0.5) - 1
        kept = (corners != np.roll(corners, 1, axis=0)).any(1)
        if kept.sum() >= 3:
            result.append([float(value) for value in corners[kept].reshape(-1)])
    return result


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed COCO RLE of a mask bool [H, W]: runs of 0 and 1 in turn, column by column."""
    flat = np.concatenate([[False], mask.reshape(-1, order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([changes, [mask.size]]) if not mask[-1, -1] else changes
    counts = np.diff(np.concatenate([[0], ends]))
    return {"counts": [int(count) for count in counts], "size": list(mask.shape)}


def write_imagenet(folder: Folder, split: str, shots: Iterable[tuple[str, Shot]]) -> None:
    """``imagenet/<split>/<class>/<class>_NNNN.JPEG`` from (class name, shot) pairs."""
    numbers = dict.fromkeys(CLASSES, 0)
    for name, shot in shots:
        folder.jpeg(f"imagenet/{split}/{name}/{name}_{numbers[name]:04d}.JPEG", shot.picture)
        numbers[name] += 1


def _coco_annotation(number: int, image_id: int, seen: Seen) -> dict:
    x0, y0, x1, y1 = seen.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": seen.category + 1,
        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
        "area": float(np.count_nonzero(seen.mask)),
        "iscrowd": int(seen.crowd),
        "segmentation": run_lengths(seen.mask) if seen.crowd else polygons(seen.mask),
    }


def write_coco(folder: Folder, split: str, shots: Iterable[Shot]) -> None:
    """``coco/<split>2017/*.jpg`` and ``coco/annotations/instances_<split>2017.json``."""
    truth = CocoTruth(1 if split == "train" else 100_001)
    for shot in shots:
        folder.jpeg(f"coco/{split}2017/{truth.add(shot)}", shot.picture)
    folder.text(f"coco/annotations/instances_{split}2017.json", [truth.json()])


class CocoTruth:
    """Objects of pictures as a COCO JSON; ids and names count from ``first``."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, shot: Shot) -> str:
        """Note a picture's objects; the name of its file."""
        height, width = shot.picture.shape[:2]
        image_id = self.first + len(self.images)
        name = f"{image_id:012d}.jpg"
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for seen in shot.objects:
            number = self.first + len(self.annotations)
            self.annotations.append(_coco_annotation(number, image_id, seen))
        return name

    def json(self) -> str:
        content = {
            "info": {"description": "miniature world", "version": "1.0"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {"id": index, "name": name, "supercategory": "toy"}
                for index, name in enumerate(CLASSES, start=1)
            ],
        }
        return json.dumps(content)


def write_ade20k(folder: Folder, split: str, shots: Iterable[Shot]) -> None:
    """Pictures, official labels and Detectron2's labels under ``ADEChallengeData2016``."""
    long = {"train": "training", "val": "validation"}[split]
    root = "ADEChallengeData2016"
    for number, shot in enumerate(shots, start=1):
        name = f"{long}/ADE_{split}_{number:08d}"
        labels = shot.semantic
        folder.jpeg(f"{root}/images/{name}.jpg", shot.picture)
        folder.png(f"{root}/annotations_detectron2/{name}.png", labels)
        # The official files count from 1 and keep 0 for "other".
        official = np.where(labels == OTHER, 0, labels + 1).astype(np.uint8)
        folder.png(f"{root}/annotations/{name}.png", official)
    lines = ["Idx\tName", *(f"{index}\t{name}" for index, name in enumerate(STUFF, start=1))]
    folder.text(f"{root}/objectInfo.txt", lines)


def depth_values(depth: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Depth in metres [H, W] as KITTI's uint16: metres x 256, 0 where the sensor got no answer, by
    chance too where there is a generator."""
    lost = (depth <= 0) | (depth > FURTHEST)
    if rng is not None:
        lost |= rng.random(depth.shape) < DEPTH_LOST
    return np.where(lost, 0, np.round(depth * DEPTH_UNITS)).astype(np.uint16)


def normal_colors(normal: np.ndarray) -> np.ndarray:
    """Unit normals [H, W, 3] as RGB uint8: (n + 1) / 2 x 255; black where there is none."""
    colors = np.round((normal + 1) / 2 * 255).astype(np.uint8)
    colors[(normal == 0).all(-1)] = 0
    return colors


def write_kitti(
    folder: Folder, split: str, shots: Iterable[Shot], rng: np.random.Generator
) -> None:
    """Drives under ``kitti/raw``, depth and normals under ``kitti/<split>``, a list of the split.

    A line of the list is "image depth focal", as in the lists of the Eigen split.
    """
    lines = []
    for index, shot in enumerate(shots):
        number = index // DRIVE_FRAMES + (1 if split == "train" else 1001)
        drive = f"{DRIVE_DATE}_drive_{number:04d}_sync"
        frame = f"{index % DRIVE_FRAMES:010d}"
        image = f"{DRIVE_DATE}/{drive}/image_02/data/{frame}.jpg"
        depth = f"{drive}/proj_depth/groundtruth/image_02/{frame}.png"
        folder.jpeg(f"kitti/raw/{image}", shot.picture)
        folder.png(f"kitti/{split}/{depth}", depth_values(shot.truth.depth, rng))
        normals = f"kitti/{split}/{drive}/normals/image_02/{frame}.png"
        folder.png(normals, normal_colors(shot.truth.normal))
        lines.append(f"{image} {depth} {shot.focal:.4f}")
    folder.text(f"kitti/splits/eigen_{split}_files_with_gt.txt", lines)


def _voc_object(name: str, seen: Seen) -> list[str]:
    x0, y0, x1, y1 = seen.box
    corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
    hard = seen.crowd or seen.visible < 0.65 or (seen.truncated and seen.visible < 0.9)
    return [
        "  <object>",
        f"    <name>{name}</name>",
        "    <pose>Unspecified</pose>",
        f"    <truncated>{int(seen.truncated)}</truncated>",
        f"    <occluded>{int(seen.visible < 0.95)}</occluded>",
        f"    <difficult>{int(hard)}</difficult>",
        "    <bndbox>",
        *(f"      <{key}>{value}</{key}>" for key, value in corners.items()),
        "    </bndbox>",
        "  </object>",
    ]


def voc_xml(
    folder: str, file_name: str, shape: tuple[int, ...], objects: Iterable[tuple[str, Seen]]
) -> list[str]:
    """Lines of an annotation file of Pascal VOC; boxes are 1-based and inclusive.

    Args:
        folder: what the file says of the folder of its image.
        file_name: name of the image.
        shape: height and width of the image, and whatever else its shape has.
        objects: (class, object); heaps and what is hardly visible are difficult.
    """
    height, width = shape[:2]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    lines = ["<annotation>", f"  <folder>{folder}</folder>", f"  <filename>{file_name}</filename>"]
    lines += [f"  {size}", "  <segmented>0</segmented>"]
    for name, seen in objects:
        lines += _voc_object(name, seen)
    return [*lines, "</annotation>"]


def write_voc(folder: Folder, split: str, shots: Iterable[Shot]) -> None:
    """Pictures, XML and list of the split under ``VOC2012``."""
    names = []
    for number, shot in enumerate(shots, start=1 if split == "train" else 100_001):
        name = f"2012_{number:06d}"
        folder.jpeg(f"VOC2012/JPEGImages/{name}.jpg", shot.picture)
        objects = [(CLASSES[seen.category], seen) for seen in shot.objects]
        lines = voc_xml("VOC2012", f"{name}.jpg", shot.picture.shape, objects)
        folder.text(f"VOC2012/Annotations/{name}.xml", lines)
        names.append(name)
    folder.text(f"VOC2012/ImageSets/Main/{split}.txt", names)


def write_unlabelled(folder: Folder, shots: Iterable[tuple[str, Shot]]) -> None:
    """``unlabelled/images/*.jpg`` from (class name or "", shot) pairs, and what only the judge of
    labels may know under ``unlabelled/truth``: objects, parsing, depth, and the class of pictures
    that have one."""
    truth, lines = CocoTruth(1), []
    for class_name, shot in shots:
        name = truth.add(shot)
        folder.jpeg(f"unlabelled/images/{name}", shot.picture)
        png = name.replace(".jpg", ".png")
        folder.png(f"unlabelled/truth/parsing/{png}", shot.semantic)
        folder.png(f"unlabelled/truth/depth/{png}", depth_values(shot.truth.depth))
        if class_name:
            lines.append(f"{name} {class_name}")
    folder.text("unlabelled/truth/instances.json", [truth.json()])
    folder.text("unlabelled/truth/classes.txt", lines)
