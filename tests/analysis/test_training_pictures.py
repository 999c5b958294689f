"""TensorBoard pictures of a run: when they are drawn, what the event file holds, and faults."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch.distributed as dist
from detectron2.utils.events import EventStorage, TensorboardXWriter
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gppf_d2.analysis.figures import new_figure, to_array
from gppf_d2.analysis.run_folder import RunFolder, read_run
from gppf_d2.analysis.training import pictures as training_pictures
from gppf_d2.analysis.training.pictures import TrainingPictures, run_pictures
from tests.analysis.run_folders import make_metrics, make_routes, make_run


class StubTrainer:
    """What the hook asks of a trainer."""

    def __init__(self, run_dir: Path | None, max_iter: int = 10) -> None:
        self.run_dir, self.max_iter, self.iter = run_dir, max_iter, 0
        self.groups = SimpleNamespace(control=None)
        self.rested: list[float] = []
        self.metrics = SimpleNamespace(rest=self.rested.append)
        self.storage = EventStorage()

    def run(self, hook: TrainingPictures) -> list[int]:
        """Ask the hook after every iteration; those after which it rested."""
        hook.trainer, acted = self, []
        for iteration in range(self.max_iter):
            self.iter = self.storage.iter = iteration
            before = len(self.rested)
            hook.after_step()
            acted += [iteration] * (len(self.rested) - before)
        return acted


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have a single small picture."""

    def pictures(folder: RunFolder) -> list:
        return [("dot", lambda: new_figure(0.2, 0.1))]

    monkeypatch.setattr(training_pictures, "run_pictures", pictures)


@pytest.mark.parametrize(("period", "acted"), [(0, [9]), (4, [3, 7, 9]), (5, [4, 9]), (100, [9])])
def test_pictures_are_due_after_every_period_and_the_last_iteration(
    period: int, acted: list[int], tmp_path: Path, one_picture: None
) -> None:
    trainer = StubTrainer(tmp_path)
    assert trainer.run(TrainingPictures(period)) == acted
    assert [step for _, _, step in trainer.storage._vis_data] == acted
    assert all(seconds > 0 for seconds in trainer.rested)


def test_ranks_without_the_folder_wait_and_rest_but_draw_nothing(
    one_picture: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[object] = []
    monkeypatch.setattr(dist, "barrier", lambda group: waited.append(group))
    trainer = StubTrainer(None)
    trainer.groups.control = "control"
    assert trainer.run(TrainingPictures(5)) == [4, 9]
    assert waited == ["control", "control"] and trainer.storage._vis_data == []


def test_a_negative_period_is_refused() -> None:
    with pytest.raises(ValueError, match="period -1"):
        TrainingPictures(-1)


def test_what_cannot_be_drawn_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pictures(folder: RunFolder) -> list:
        raise OSError("no room")

    monkeypatch.setattr(training_pictures, "run_pictures", pictures)
    monkeypatch.setattr(training_pictures.logger, "propagate", True)
    with caplog.at_level(logging.WARNING, training_pictures.__name__):
        assert StubTrainer(tmp_path).run(TrainingPictures(1)) == list(range(10))
    assert [record.getMessage() for record in caplog.records] == [
        "Pictures of the training cannot be drawn: OSError('no room')"
    ]


def test_an_empty_folder_has_no_pictures_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(run_pictures(read_run(tmp_path))) == []
    with caplog.at_level(logging.WARNING):
        StubTrainer(tmp_path).run(TrainingPictures(5))
    assert not caplog.records


def test_one_unit_a_layer_has_no_pictures_of_routes() -> None:
    routes = make_routes(59, num_units=1)
    folder = RunFolder(Path("run"), metrics=make_metrics(60), routes=routes, history=[routes])
    names = [name for name, _ in run_pictures(folder)]
    assert "losses/objects" in names and not any(name.startswith("routes") for name in names)


def test_the_event_file_holds_the_pictures_of_a_run(tmp_path: Path) -> None:
    trainer = StubTrainer(make_run(tmp_path / "run"), max_iter=1)
    with trainer.storage:
        trainer.run(TrainingPictures())
        writer = TensorboardXWriter(str(tmp_path / "events"))
        writer.write()
        writer.close()
    assert trainer.storage._vis_data == []
    pictures = {}
    (file,) = (tmp_path / "events").iterdir()
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            pictures[value.tag] = value
    assert {"routes/probabilities", "routes/agreement", "routes/curves"} < set(pictures)
    assert {"losses/objects", "shares", "speed/time", "scalars/lr"} < set(pictures)
    content = pictures["losses/objects"].tensor.string_val[2]  # after width and height
    drawn = dict(run_pictures(read_run(tmp_path / "run")))["losses/objects"]()
    with Image.open(io.BytesIO(content)) as written:
        assert np.array_equal(np.asarray(written), to_array(drawn, training_pictures.DPI))


def test_pictures_of_routes_have_the_order_of_the_config_and_titles() -> None:
    routes = make_routes(59, ["objects", "scenes"])
    config = {"tasks": {"scenes": {}, "objects": {}}}
    folder = RunFolder(Path("run"), config=config, routes=routes, history=[routes])
    drawn = dict(run_pictures(folder))
    texts = [text.get_text() for text in drawn["routes/probabilities"]().axes[0].texts]
    assert texts.index("scenes") < texts.index("objects")
    (title,) = drawn["routes/agreement"]().texts
    assert title.get_text().startswith("Share of layers with the same unit · iteration 59")
