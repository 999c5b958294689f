"""What a suite runs: every config in every row, its folder, and the command line that goes on.

A run is one training by train_net.py, or, where a config has a `sweep` section and the suite is
told to sweep, that sweep and its last training (``gppf_d2.tools.sweep``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gppf_d2.analysis.results.suite_table import Column, read_record
from gppf_d2.engine.checkpoint import Checkpointer
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.tools.sweep_plan import Plan, check_overrides, plan_of

NEXT_OVERRIDE = re.compile(r",(?=[+~]?[\w.]+=)")  # values may have commas: [1,2]


@dataclass(frozen=True)
class Run:
    """One config with one row's overrides.

    Args:
        row, column: where it stands in the table.
        config: the file.
        overrides: ``key=value`` strings, the row's last.
        folder: its output.
        iterations: how many it trains, with those of the sweep.
        points: that a sweep tries before the last training; 0: it is no sweep.
    """

    row: str
    column: Column
    config: Path
    overrides: tuple[str, ...]
    folder: Path
    iterations: int
    points: int = 0

    @property
    def name(self) -> str:
        return f"{self.row}/{self.column.name}"


def parse_rows(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Rows of the command line, ``NAME=key=value,key=value``, as name -> overrides.

    Raises:
        UserError: no name, a name that cannot be a folder, a name twice.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, separator, overrides = text.partition("=")
        if not separator or not re.fullmatch(r"[\w-]+", name):
            raise UserError(
                f"The row {text!r} is not NAME=key=value,key=value with a name of letters, digits, "
                "'_' and '-'; a row without overrides ends in '='."
            )
        if name in rows:
            raise UserError(f"There are two rows {name!r}; give them different names.")
        rows[name] = tuple(part for part in NEXT_OVERRIDE.split(overrides) if part)
    return rows


def read_columns(configs: Sequence[Path]) -> dict[Path, Column]:
    """What the table says of every config.

    Raises:
        UserError: a config that cannot be read, several tasks in one, or two of one name.
        ValueError: a `paper` that cannot be meant.
    """
    columns: dict[Path, Column] = {}
    for config in configs:
        cfg = load_config(str(config))
        if len(cfg.tasks) > 1:
            raise UserError(
                f"{str(config)!r} has the tasks {', '.join(cfg.tasks)}; a suite has one number for "
                "each config and takes configs of one task."
            )
        if config.stem in (column.name for column in columns.values()):
            raise UserError(
                f"Two configs are named {config.stem!r}, and the table has one column for each; "
                "run them in suites of their own."
            )
        paper = OmegaConf.to_container(cfg).get("paper")
        columns[config] = Column.of(config.stem, paper)
    return columns


def plan(
    columns: Mapping[Path, Column],
    rows: Mapping[str, tuple[str, ...]],
    overrides: Sequence[str],
    output: Path,
    sweep: bool = False,
) -> list[Run]:
    """All runs, row by row, with every override checked.

    Args:
        columns, rows: of the table.
        overrides: of every run, before those of its row.
        output: the suite's folder.
        sweep: sweep with the configs that have a `sweep` section.

    Raises:
        UserError: an override that cannot be read or is the sweep's own, a folder that holds a run
            with other settings, or no config to sweep with.
        ValueError: a `sweep` section that cannot be meant.
    """
    runs = []
    for row, of_row in rows.items():
        given = (*overrides, *of_row)
        if any(text.lstrip("+~").startswith("train.output_dir=") for text in given):
            raise UserError("A suite names the output folders itself; give --output DIR.")
        for config, column in columns.items():
            cfg = load_config(str(config), given)
            search = plan_of(cfg, str(config)) if sweep and "sweep" in cfg else None
            if search is not None:
                check_overrides(search, str(config), given)
            points = len(search.points()) if search else 0
            folder = output / row / column.name
            run = Run(row, column, config, given, folder, _iterations(cfg, search), points)
            _check_settings(run)
            runs.append(run)
    if sweep and not any(run.points for run in runs):
        raise UserError("--sweep needs a config with a `sweep` section, and none here has one.")
    return runs


def _iterations(cfg: DictConfig, search: Plan | None) -> int:
    """Of all trainings of a run; which of its points a sweep trains again is not known yet."""
    own = int(cfg.train.max_iter)
    if search is None:
        return own
    points = [dict(text.split("=", 1) for text in search.overrides(p)) for p in search.points()]
    return own + sum(int(point.get("train.max_iter", own)) for point in points)


def _check_settings(run: Run) -> None:
    record, folder = read_record(run.folder), run.folder
    begun = next(folder.glob("model_*.pth"), None) or (folder / "study.db").is_file()
    if record is None or not begun:
        return  # nothing is there that other settings could mix with
    if bool(record.get("sweep")) != bool(run.points):
        there, here = ("a sweep", "without") if record.get("sweep") else ("a single run", "with")
        raise UserError(
            f"{str(folder)!r} holds {there}, and this suite goes {here} --sweep; give another "
            "--output, or remove the folder."
        )
    if record["overrides"] != list(run.overrides):
        raise UserError(
            f"{str(folder)!r} holds a run with the overrides "
            f"{' '.join(record['overrides']) or '(none)'}, not {' '.join(run.overrides) or 'none'};"
            " give the row another name, another --output, or remove the folder."
        )


def find_train_net(config: Path) -> Path:
    """``train_net.py`` in the nearest folder above a config, or in the current one.

    Raises:
        UserError: there is none.
    """
    for folder in (*config.resolve().parents, Path.cwd()):
        if (folder / "train_net.py").is_file():
            return folder / "train_net.py"
    raise UserError(f"There is no train_net.py above {str(config)!r}; name it with --train-net.")


def command_of(
    run: Run, script: Path, launch: Sequence[str], sweep_options: Sequence[str]
) -> list[str]:
    """The command line that begins a run, goes on with it, or evaluates it.

    Args:
        run: one that is not finished.
        script: ``train_net.py``.
        launch: options of every run: processes, GPUs, data root.
        sweep_options: more options of a sweep.
    """
    given = ["--config-file", str(run.config), *launch]
    if run.points:
        line = [sys.executable, "-m", "gppf_d2.tools.sweep", *given, *sweep_options]
        line += ["--train-script", str(script), "--output", str(run.folder)]
        return [*line, *run.overrides]
    line = [sys.executable, str(script), *given]
    if (run.folder / "model_final.pth").is_file():
        line.append("--eval-only")
    elif Checkpointer(run.folder).files():
        line.append("--resume")
    return [*line, *run.overrides, f"train.output_dir={run.folder}"]
