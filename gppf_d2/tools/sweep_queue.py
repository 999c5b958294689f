"""The queue of a sweep: every point of a grid is a trial of an Optuna study.

The study lies in a database that processes on any number of machines share. A point waits, runs,
and is done or has failed. A worker takes a waiting point by a change of state that the database
grants to one of them only, so that no two run the same. (Optuna's ``GridSampler`` does not promise
that: towards the end of a grid its workers start points that others are running.)

While a point runs, its worker records heartbeats. A trial whose heartbeat has stopped died with its
worker; whoever notices marks it as failed, which again the database grants to one only, and queues
its point anew. A trial that ended by itself with an error has that error as its result and is not
repeated. What a crash in the middle of queueing has left out is found when the study is opened.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import (
    DuplicatedStudyError,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gppf_d2.tools.sweep_plan import Plan, Point

PATIENCE = 60.0  # seconds that a study's maker has to fill it

_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
# of several trials of one point, the first of these tells its state
_ORDER = ("done", "running", "waiting", "failed", "lost")


@dataclass(frozen=True)
class Entry:
    """A point of the grid and what became of it.

    Args:
        point: the values.
        state: done, running, waiting, failed, or lost (to be queued again).
        number: of its trial in the study; -1 without one.
        value: of the metric, when done.
        error: one sentence, when failed.
        seconds: that it ran.
        host: where it ran.
        results: all metrics, when done.
    """

    point: Point
    state: str = "lost"
    number: int = -1
    value: float | None = None
    error: str = ""
    seconds: float | None = None
    host: str = ""
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def open_storage(url: str, heartbeat: int) -> RDBStorage:
    """Connect to a database, making its tables where they are missing.

    Args:
        url: as ``sqlite:///study.db`` or ``mysql+pymysql://user:password@host/database``.
        heartbeat: seconds between the signs of life of a running trial; three missed ones and it is
            taken for dead.

    Raises:
        ValueError: the database cannot be reached or used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sqlite = url.startswith("sqlite")
    for left in reversed(range(20)):  # another process may be making the tables at this moment
        try:
            storage = RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
            break
        except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            passing = isinstance(error, SQLAlchemyError) and "unable to open" not in reason
            if not passing or isinstance(error, ArgumentError) or not left:
                raise ValueError(f"The storage {_shown(url)!r} cannot be used: {reason}") from error
            time.sleep(0.2)
    if sqlite:
        _lock_from_the_beginning(storage.engine)
    return storage


def _shown(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _lock_from_the_beginning(engine: Engine) -> None:
    """Let SQLite's transactions exclude each other, reading included.

    By default one reads that a trial waits before it holds the lock, and two may take it.
    """

    def by_hand(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before the change
    event.listen(engine, "connect", by_hand)
    event.listen(engine, "begin", begin)


class Queue:
    """The points of a plan in a study.

    Args:
        storage: from ``open_storage``.
        name: of the study; it is made where it is missing.
        plan: whose grid the values of the points are from.
        points: to be run.
        identity: what the trials do, plain data; a study of other ones is refused.
        make: False refuses a missing study, and queues nothing.
        retry_failed: queue also points again that ended with an error.

    Raises:
        ValueError: the study holds other trials, or is missing.
    """

    def __init__(
        self,
        storage: RDBStorage,
        name: str,
        plan: Plan,
        points: Sequence[Point],
        identity: Mapping[str, Any],
        *,
        make: bool = True,
        retry_failed: bool = False,
    ) -> None:
        self.storage, self.points = storage, list(points)
        self._choices = {
            key: CategoricalDistribution(list(values)) for key, values in plan.grid.items()
        }
        made_here = False
        try:
            if make:
                optuna.create_study(storage=storage, study_name=name, direction=plan.direction)
                made_here = True
        except DuplicatedStudyError:
            pass
        try:
            self.study = optuna.load_study(storage=storage, study_name=name)
        except KeyError:
            raise ValueError(f"There is no study {name!r} in {_shown(storage.url)!r}.") from None
        if made_here:
            self.study.set_user_attr("identity", identity)
        elif make:
            self._wait_for_its_maker()
        found = self.study.user_attrs.get("identity", identity)
        for key, value in identity.items():
            if found.get(key) != value:
                raise ValueError(
                    f"The study {name!r} in {_shown(storage.url)!r} is of a sweep with another "
                    f"{key}, {found.get(key)} and not {value}; give another --study or --output."
                )
        if make:
            self._queue_missing(retry_failed)
            self.study.set_user_attr("filled", True)

    def _wait_for_its_maker(self) -> None:
        """Where another process has just made the study, let it queue the points."""
        deadline = time.monotonic() + PATIENCE
        while not self.study.user_attrs.get("filled") and time.monotonic() < deadline:
            time.sleep(0.2)

    def _queue_missing(self, retry_failed: bool) -> None:
        again = ("lost", "failed") if retry_failed else ("lost",)
        missing = [entry.point for entry in self.entries() if entry.state in again]
        # shuffled, so that the best so far means something early on
        random.Random(0).shuffle(missing)
        for point in missing:
            self.study.add_trial(
                create_trial(state=TrialState.WAITING, params=point, distributions=self._choices)
            )

    def take(self) -> FrozenTrial | None:
        """A point to run now, or None; points of workers that died are queued again first."""
        fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if trial.params not in self.points:
                continue
            with contextlib.suppress(UpdateFinishedTrialError):
                # before it runs: a trial without any heartbeat would never count as dead
                self.storage.record_heartbeat(trial._trial_id)
                if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self._note(trial, "host", socket.gethostname())
                    return trial
        return None

    def beat(self, trial: FrozenTrial) -> None:
        """Say that the trial is alive; a database that is away for a moment does not end it."""
        with contextlib.suppress(StorageInternalError):
            self.storage.record_heartbeat(trial._trial_id)

    def finish(self, trial: FrozenTrial, value: float, results: Mapping[str, Any]) -> None:
        """The trial is done."""
        with contextlib.suppress(UpdateFinishedTrialError):  # taken for dead meanwhile
            self._note(trial, "results", results)
        self.study.tell(trial.number, value, skip_if_finished=True)

    def fail(self, trial: FrozenTrial, error: str) -> None:
        """The trial ended with an error, which is its result."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._note(trial, "error", error)
        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def give_back(self, trial: FrozenTrial) -> None:
        """The trial was interrupted: its point waits again."""
        with contextlib.suppress(UpdateFinishedTrialError):
            if self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
                RetryHeartbeatStaleTrialCallback()(self.study, trial)

    def _note(self, trial: FrozenTrial, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial._trial_id, key, value)

    def entries(self) -> list[Entry]:
        """All points in the order of the grid, with what became of them."""
        found: dict[int, list[Entry]] = {index: [] for index in range(len(self.points))}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.params in self.points:
                found[self.points.index(trial.params)].append(_entry(trial))
        rank = {state: place for place, state in enumerate(_ORDER)}
        return [
            min(entries, key=lambda entry: (rank[entry.state], -entry.number))
            if entries
            else Entry(point=self.points[index])
            for index, entries in found.items()
        ]

    def numbers(self, state: str) -> Iterator[int]:
        """Numbers of all trials of the study in a state."""
        for trial in self.study.get_trials(deepcopy=False):
            if _entry(trial).state == state:
                yield trial.number


def _entry(trial: FrozenTrial) -> Entry:
    state = _STATES.get(trial.state)
    if state is None:
        state = "failed" if "error" in trial.user_attrs else "lost"
    duration = trial.duration
    return Entry(
        point=dict(trial.params),
        state=state,
        number=trial.number,
        value=trial.value if state == "done" else None,
        error=trial.user_attrs.get("error", "") if state == "failed" else "",
        seconds=duration.total_seconds() if duration is not None else None,
        host=trial.user_attrs.get("host", ""),
        results=trial.user_attrs.get("results", {}) if state == "done" else {},
    )
