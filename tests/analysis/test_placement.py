"""Names on pictures and keys beside them: nothing covers what it explains."""

from __future__ import annotations

import numpy as np
from detectron2.data import Metadata

from gppf_d2.analysis import draw
from gppf_d2.analysis.figures import DARK
from gppf_d2.analysis.predictions.keys import Scale, Swatch, line_height, pixels_of, strip
from gppf_d2.analysis.predictions.placement import Label, Place, box_places, placed, write_labels
from tests.analysis.made_outputs import instances, picture


def test_labels_of_many_boxes_do_not_cover_each_other_or_the_middle_of_an_object() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 250, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, (60, 2))], axis=1)
    spared = [(100.0, 100.0, 200.0, 200.0)]
    plates = placed([(70, 18)] * 60, [box_places(box) for box in boxes], (300, 300), spared)
    there = [plate for plate in plates if plate is not None]
    assert 5 < len(there) < 60 and plates[0] is not None, "those that find no room are dropped"
    for place, (left, top, right, bottom) in enumerate(there):
        assert left >= 0 and top >= 0 and right <= 300 and bottom <= 300
        for other in [*there[:place], *spared]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
    assert placed([(400, 18)], [[Place(5, 5)]], (300, 300)) == [(0, 5, 400, 23)], "cut, not lost"
    blank = np.full((300, 300, 3), 255, np.uint8)
    written = write_labels(blank, [Label("cat", "black", [Place(9, 9)]), Label("", "red", [])])
    assert (written[10:20, 10:20] == 0).any() and (written[60:] == 255).all()
    assert (blank == 255).all()


def test_of_one_class_alone_the_scores_are_written_and_no_names() -> None:
    one = Metadata(thing_classes=["nucleus"])
    found = instances()
    found.pred_classes[:] = 0
    found.remove("pred_masks")
    plain, named = (
        draw(picture(), {"instances": found}, names, min_score=0.05)
        for names in (one, Metadata(thing_classes=["nucleus", "other"]))
    )
    black = [int((drawn == 0).all(2).sum()) for drawn in (plain, named)]
    assert not np.array_equal(plain, named) and black[0] != black[1]


def test_keys_take_as_many_lines_as_they_need_and_cover_nothing() -> None:
    scale = Scale(0.0, 1.0, ("0 m", "9 m"), "magma")
    one = strip(400, ["depth", scale])
    assert one.shape == (line_height(14), 400, 3) and one.std() > 10
    assert len(strip(150, ["inverse depth", scale, ("errors", Swatch("wrong", "red"))])) > len(one)
    sentence = strip(100, ["no score reaches this height"])
    assert len(sentence) > 2 * len(one) - 1 and sentence.min() < 128
    assert strip(100, []).shape == (0, 100, 3)
    assert strip(50, ["a"], theme=DARK)[0, 0].tolist() == list(pixels_of(DARK.background))
    known = np.array([True, True, False])
    low, high, unknown = scale.paint(np.array([-5.0, 5.0, 0.5]), known).astype(int)
    assert high.sum() > low.sum() + 300 and unknown.tolist() == [185, 190, 199]
