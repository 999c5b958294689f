"""The contact sheet of a task: which images are shown, and each beside its truth and its errors.

"even" spreads the images over the dataset. "worst" and "best" look at a number of images, score
each (``image_scores``), and show those with the lowest or highest scores. Scores are kept while
looking, nothing else; what is shown is predicted again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from detectron2.data import Metadata
from matplotlib.figure import Figure
from tqdm import tqdm

from gppf_d2.analysis.predictions.drawing import KINDS, draw_kinds, joined, labels_of
from gppf_d2.analysis.predictions.error_maps import draw_errors, error_scales, errors_of
from gppf_d2.analysis.predictions.image_scores import ANSWERS, ImageScore, score_image
from gppf_d2.analysis.predictions.keys import UNKNOWN, Item, Swatch
from gppf_d2.analysis.predictions.pictures import Drawn
from gppf_d2.analysis.predictions.pixel_maps import as_array, depth_limits
from gppf_d2.analysis.predictions.sheets import ClassCell, SheetRow, class_sheet, contact_sheet
from gppf_d2.analysis.predictions.truth import truth_of

if TYPE_CHECKING:
    from gppf_d2.analysis.predictions.predictor import Predictor

ORDERS = ("even", "worst", "best")
NO_TRUTH = Swatch("no truth", tuple(channel / 255 for channel in UNKNOWN))


class Judged(NamedTuple):
    """An image RGB uint8 [H, W, 3] with output, truth and score; None where nothing is to be
    scored."""

    name: str
    image: np.ndarray
    output: dict[str, Any]
    truth: dict[str, Any]
    score: ImageScore | None


class Pick(NamedTuple):
    """The places of the images that are shown, and a sentence that says which they are."""

    places: list[int]
    words: str


def draw_sheet(
    predictor: Predictor,
    records: Sequence[Mapping[str, Any]],
    count: int = 6,
    *,
    order: str = "even",
    among: int = 200,
    errors: bool = True,
    progress: bool = False,
    when: str = "",
) -> Figure:
    """A contact sheet of a dataset.

    Args:
        predictor: what to run.
        records: of an evaluation dataset, with annotations.
        count: images on the sheet, >= 1.
        order: "even", "worst" or "best", see above.
        among: how many images "worst" and "best" look at, spread evenly; 0 is all.
        errors: draw what is wrong in a column of its own, where there is a truth.
        progress: show on stderr how many images "worst" and "best" have looked at.
        when: words on the checkpoint for the heading, "after 130 iterations".

    Returns:
        The sheet; its label says in words what it shows.

    Raises:
        ValueError: an unknown order, a count below 1, no record, or an order without any truth.
        OSError: an image that "even" would show cannot be read.
    """
    if order not in ORDERS:
        raise ValueError(f"The order is {order!r}; choose one of {', '.join(ORDERS)}.")
    if count < 1:
        raise ValueError(f"The count of images is {count}; show at least 1.")
    if among < 0:
        raise ValueError(f"The images are picked among {among}; look at 1 or more, or at all (0).")
    if not len(records):
        raise ValueError(f"The dataset of task {predictor.task!r} has no image to show.")
    if order == "even":
        places = spread(len(records), count)
        pick = Pick(places, f"{len(places)} of {len(records):,} images, spread evenly")
    else:
        pick = ranked(predictor, records, count, order, among, progress)
    names = told_apart([str(records[place]["file_name"]) for place in pick.places])
    shown = [
        judge(predictor, records[place])._replace(name=name)
        for place, name in zip(pick.places, names)
    ]
    title = " · ".join(part for part in (predictor.task, predictor.label, when) if part)
    if all(set(one.output) == {"classes"} for one in shown):
        cells = [_cell(one) for one in shown]
        sheet = class_sheet(title, cells, predictor.metadata, pick.words)
    else:
        rows, keys = _rows(shown, predictor.metadata, predictor.min_score, errors)
        sheet = contact_sheet(title, rows, pick.words, keys=keys)
    told = "; ".join(f"{one.name}: {one.score.text}" if one.score else one.name for one in shown)
    sheet.set_label(f"Predictions of {title}. {pick.words}. {told}.")
    return sheet


def told_apart(files: Sequence[str]) -> list[str]:
    """The names of files, after as many of their folders as tell files of one name apart."""
    by_name: dict[str, set[str]] = {}
    for file in files:
        by_name.setdefault(os.path.basename(file), set()).add(file)

    def name_of(file: str) -> str:
        others, parts = by_name[os.path.basename(file)], file.split("/")
        tails = ("/".join(parts[-count:]) for count in range(1, len(parts)))
        apart = (tail for tail in tails if sum(_ends_with(one, tail) for one in others) == 1)
        return next(apart, file)

    return [name_of(file) for file in files]


def _ends_with(file: str, tail: str) -> bool:
    return f"/{file}".endswith(f"/{tail}")


def spread(total: int, count: int) -> list[int]:
    """``count`` places spread evenly over ``total``, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round()).astype(int).tolist()


def ranked(
    predictor: Predictor,
    records: Sequence[Mapping[str, Any]],
    count: int,
    order: str,
    among: int,
    progress: bool = False,
) -> Pick:
    """The worst or best images; arguments of ``draw_sheet``. Images that cannot be read, or whose
    truth has nothing to measure, are left out and counted.

    Raises:
        ValueError: no image can be scored.
    """
    looked_at = spread(len(records), among or len(records))
    scores: dict[int, ImageScore] = {}
    unreadable = 0
    title = f"{predictor.task} {predictor.label}".strip()
    for place in tqdm(looked_at, desc=title, unit=" images", disable=not progress, leave=False):
        try:
            score = judge(predictor, records[place]).score
        except OSError:
            unreadable += 1
            continue
        if score is not None and math.isfinite(score.value):
            scores[place] = score
    if not scores:
        raise ValueError(
            f"None of {len(looked_at)} images of task {predictor.task!r} has a truth to be ordered "
            "by; choose the order 'even'."
        )
    chosen = sorted(scores, key=lambda place: scores[place].badness, reverse=order == "worst")
    chosen = chosen[:count]
    name = scores[chosen[0]].name
    total = len(records)
    over = f" (spread evenly over all {total:,})" if len(looked_at) < total else ""
    words = f"The {len(chosen)} {order} of {len(looked_at):,} images{over} by {name}"
    bare = len(looked_at) - len(scores) - unreadable
    left_out = [f"{unreadable:,} cannot be read"] * bool(unreadable)
    left_out += [f"{bare:,} without a truth"] * bool(bare)
    return Pick(chosen, words + (f"; left out: {', '.join(left_out)}" if left_out else ""))


def judge(predictor: Predictor, record: Mapping[str, Any]) -> Judged:
    """Run a record and score it.

    Raises:
        OSError: the image, or a map of its truth, cannot be read.
    """
    record = dict(record)
    _, image, output = predictor.predict_record(record)
    output, truth = comparable(output, truth_of(record))
    if "sem_seg" in output:
        output["sem_seg"] = labels_of(output["sem_seg"])
    score = score_image(output, truth, predictor.metadata, predictor.min_score)
    return Judged(os.path.basename(record["file_name"]), image, output, truth, score)


def comparable(
    output: Mapping[str, Any], truth: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kinds that output and truth share; where they share none, all of both."""
    shared = {kind: value for kind, value in output.items() if ANSWERS.get(kind, kind) in truth}
    if not shared:
        return dict(output), dict(truth)
    wanted = {ANSWERS.get(kind, kind) for kind in shared} | {"crowds", "verified"}
    return shared, {kind: value for kind, value in truth.items() if kind in wanted}


def _cell(one: Judged) -> ClassCell:
    remark = one.score.text if one.score else ""
    return ClassCell(
        one.image, as_array(one.output["classes"]), one.truth.get("label"), one.name, remark
    )


def _rows(
    shown: Sequence[Judged], metadata: Metadata, min_score: float, errors: bool
) -> tuple[list[SheetRow], list[Item]]:
    """The rows of a sheet, with one scale for each kind of map, and the keys to their colours."""
    depths = [part for one in shown for part in (one.output, one.truth) if "depth" in part]
    options: dict[str, Any] = {"min_score": min_score}
    if depths:
        options["limits"] = depth_limits(depths)
    scales = error_scales(errors_of(one.output, one.truth, metadata) for one in shown)
    rows: list[SheetRow] = []
    keys: dict[str, Item] = {}
    for one in shown:
        said = draw_kinds(
            one.image, one.output, metadata, true_label=one.truth.get("label"), **options
        )
        true = {kind: value for kind, value in one.truth.items() if kind in KINDS}
        actual = draw_kinds(one.image, true, metadata, **options) if true else {}
        wrong = None
        if errors:
            wrong = draw_errors(
                one.image, one.output, one.truth, metadata, scales=scales, min_score=min_score
            )
        _collect(keys, said, actual, wrong)
        if {"depth", "normals"} & set(true):
            keys.setdefault("unknown", NO_TRUTH)
        notes = [one.score.text] if one.score else []
        notes += [drawn.note for drawn in said.values() if drawn.note]
        rows.append(
            SheetRow(
                one.image, _bare(said), _bare(actual), one.name, wrong and wrong.picture,
                "\n".join(notes),
            )
        )  # fmt: skip
    unknown = keys.pop("unknown", None)
    return rows, [*keys.items(), *([unknown] if unknown else [])]


def _collect(
    keys: dict[str, Item],
    said: Mapping[str, Drawn],
    actual: Mapping[str, Drawn],
    wrong: Drawn | None,
) -> None:
    """Add the keys of one row's single pictures; several in a cell carry their own."""
    for drawn in (said, actual):
        if len(drawn) == 1:
            ((kind, one),) = drawn.items()
            if one.key is not None:
                keys.setdefault(KINDS.get(kind, kind), one.key)
    if wrong is not None and wrong.key is not None:
        keys.setdefault("errors", wrong.key)


def _bare(drawn: Mapping[str, Drawn]) -> np.ndarray | None:
    """Pictures for one cell; of a single one the key stands on the sheet."""
    if not drawn:
        return None
    return next(iter(drawn.values())).picture if len(drawn) == 1 else joined(drawn)
