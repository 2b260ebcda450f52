"""Stages as jobs: each runs after those it needs, one at a time or side by side, by whatever executor is given."""

import contextlib
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from driver import CellFailed, Failed, KernelKilled, Refused, Unmade, progress, records, surroundings
from driver.processes import STAGE, end_processes, short_folder
from driver.progress import duration
from driver.stages import SERIES, Stage
from helpers.files import MB, sha256, write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from driver.kernel import Kernel, Place


class Limits(NamedTuple):
    """The minutes after which a cell is ended, and after which a notebook is."""

    cell: float
    stage: float


@dataclass(frozen=True)
class Job:
    """All that it takes to run a stage in any process; `environment` is what its kernel gets beside that process's own."""

    stage: Stage
    values: dict[str, Any]
    root: Path
    out: Path
    limits: Limits
    environment: dict[str, str]
    beside_others: bool

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return self.stage.name


@dataclass(frozen=True)
class Failure:
    """Why a stage did not finish: the cell and the cause, what to do about it, and where to read on."""

    stage: str
    cell: str  # "" when it was none
    cause: str
    fix: str
    killed: bool  # its kernel was, from outside
    page: str  # the path of the notebook as far as it came, "" when that could not be written
    log: str


@dataclass(frozen=True)
class Outcome:
    """What came of a job: the seconds it took, now or, where it was up to date, in an earlier run; or its failure."""

    stage: str
    seconds: float
    failure: Failure | None = None
    up_to_date: bool = False

    def __str__(self) -> str:
        if self.failure:
            return f"{self.stage:20} failed"
        return f"{self.stage:20} {'up to date ' if self.up_to_date else ''}{self.time}"

    @property
    def time(self) -> str:
        """Return how long it took, in brackets where that was in an earlier run."""
        return f"({duration(self.seconds)})" if self.up_to_date else duration(self.seconds)


class Executor(Protocol):
    """What runs jobs: `width` of them at once at most, each by run_stage, in whichever process."""

    width: int

    def submit(self, job: Job, then: Job | None) -> Future[Outcome]:
        """Start the job; `then` is the one that will run after it, if that is sure by now."""

    def stop(self) -> None:
        """End all jobs that run; return when they have ended."""


class LocalExecutor:
    """Runs jobs in threads of this process, and gives each a GPU where there is one.

    Where they run one at a time and there is no GPU, whose memory a second process would share, the kernel of the next one
    starts beside the present one, and imports what it will need.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.pool = ThreadPoolExecutor(width)
        self.gpus = surroundings.Gpus()
        self.jobs: dict[Future[Outcome], Job] = {}
        self.ahead: dict[str, Setting] = {}  # kernels that wait, by the names of their jobs

    def submit(self, job: Job, then: Job | None) -> Future[Outcome]:
        """Start the job in a thread."""
        alone = self.width == 1 and not self.gpus.kernels
        future = self.pool.submit(self.run, job, then if alone else None)
        self.jobs[future] = job
        return future

    def run(self, job: Job, then: Job | None) -> Outcome:
        """Run the job on the GPU that has the fewest."""
        with self.gpus.one() as gpu:
            setting = self.ahead.pop(job.name, None)
            if then and not self.ahead:
                with contextlib.suppress(OSError, RuntimeError):  # it will tell when its turn comes
                    self.ahead[then.name] = set_up(then, ahead=True)
            outcome = run_stage(replace(job, environment=gpu | job.environment), setting)
        if outcome.failure:
            self.end_waiting(job.out)
        return outcome

    def end_waiting(self, out: Path) -> None:
        """End the kernel that waits: after a failure its turn may never come."""
        for name, setting in self.ahead.items():
            end_processes(str(out), name)
            setting.stack.close()
            setting.place.log.unlink(missing_ok=True)
        self.ahead.clear()

    def stop(self) -> None:
        """End the jobs' kernels until every thread has seen it: one may just have been starting."""
        while wait(self.jobs, timeout=0.2).not_done:
            for out in {job.out for job in self.jobs.values()}:
                end_processes(str(out))


def make_jobs(
    stages: list[Stage],
    values: dict[str, dict[str, Any]],
    root: Path,
    out: Path,
    limits: Limits,
    environment: dict[str, str],
    beside_others: bool,
) -> list[Job]:
    """Return a job for each stage, by its notebook's values and its own; kernels tell by their environment whose they are."""
    return [
        Job(
            stage,
            values[stage.notebook] | stage.values | {"OUT": str(out / stage.folder)},
            root,
            out,
            limits,
            environment | {STAGE: stage.name, SERIES: str(out / stage.series)},
            beside_others,
        )
        for stage in stages
    ]


# --- what is there ----------------------------------------------------------------------------------------------------


def changes(job: Job) -> list[str]:
    """Return the names of the inputs that are not what the finished stage was made from."""
    return records.changes(job.name, records.inputs(job.stage, job.values, job.root, job.out), job.out)


def state(job: Job) -> str:
    """Return "done" when the stage is whole and nothing that it depends on has changed, or else why it must run."""
    reason = records.unfinished(job.name, job.out)
    if not reason:
        changed = changes(job)
        reason = f"stale, changed: {', '.join(changed)}" if changed else ""
    return reason or "done"


def check_needs(jobs: list[Job], every: list[Job], command: str) -> None:
    """Return when all that the jobs need from others is whole; Refused tells the command that makes it."""
    needed = {need for job in jobs for need in job.stage.needs} - {job.name for job in jobs}
    for job in every:
        if job.name in needed:
            if reason := records.unfinished(job.name, job.out):
                raise Refused(
                    f"{job.name} is needed, but in {job.out}: {reason}. Type: {command} --only {job.stage.notebook}"
                )
            if changed := changes(job):
                print(f"{job.name} is taken as it was made, with another {', '.join(changed)}")


def show(jobs: list[Job]) -> None:
    """Print each stage's state, where it was made, and its parameters."""
    again: set[str] = set()
    for job in jobs:
        reason = state(job)
        if reason == "done" and again & set(job.stage.needs):
            reason = f"stale, runs again after {', '.join(sorted(again & set(job.stage.needs)))}"
        if reason != "done":
            again.add(job.name)
        print(f"{job.name:20} {reason}")
        if manifest := records.read_manifest(job.name, job.out):
            made = manifest["provenance"]
            print(f"    made on {made['host']}, {made['CPU']}, {made['device']}")
        for name, value in job.values.items():
            print(f"    {name} = {value!r}")


# --- one stage --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A place for a job's kernel, and the kernel itself where it was started ahead; the stack gives the place back."""

    stack: contextlib.ExitStack
    place: "Place"
    ahead: "Kernel | None"


def set_up(job: Job, ahead: bool) -> Setting:
    """Return a place for the job's kernel, which starts there now if it is to be ahead of its turn."""
    from driver import kernel  # papermill takes two seconds to import

    log = records.executed(job.name, job.out, "log")
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = surroundings.settled(os.environ) | job.environment
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(short_folder(job.out, kernel.LONGEST))
        place = kernel.Place(job.root / "notebooks", log, environment, sockets)
        started = kernel.start_ahead(place, records.imports(job.stage, job.root)) if ahead else None
        kept = stack.pop_all()
    return Setting(kept, place, started)


def run_stage(job: Job, setting: Setting | None = None) -> Outcome:
    """Run a notebook, in a setting if one was made, write its executed copy and, last of all, its manifest; return what came of it.

    The checkpoints of its training, from which it goes on when it is killed, are dropped only then. Where it fails,
    the notebook as far as it came is executed/NAME.failed.ipynb.
    """
    from driver import kernel

    inputs = records.inputs(job.stage, job.values, job.root, job.out)
    before = records.stamps(job.stage, job.out)
    started = time.monotonic()
    page = kernel.with_parameters(job.root / "notebooks" / f"{job.stage.notebook}.ipynb", job.values)
    failed = records.executed(job.name, job.out, "failed.ipynb")
    try:
        run_cells(job, page, setting)
        made = records.made(job.stage, job.out, before)
        executed = records.executed(job.name, job.out, "ipynb")
        write_whole(executed, kernel.as_text(page))
        made[executed.relative_to(job.out).as_posix()] = sha256(executed)
        failed.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        about = {"parameters": job.values, "inputs": inputs, "provenance": records.provenance(job.root)}
        records.finish(job.name, job.out, seconds=seconds, made=made, **about)
    except (CellFailed, Unmade, OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):  # a full disk; the error itself is what matters
            write_whole(failed, kernel.as_text(page))
        return Outcome(job.name, time.monotonic() - started, failure(job, page, error))
    shutil.rmtree(job.out / job.stage.folder / "models/checkpoints" / job.stage.notebook, ignore_errors=True)
    return Outcome(job.name, seconds)


def run_cells(job: Job, page: "NotebookNode", setting: Setting | None) -> None:
    """Run the page's cells in place, in a kernel of their own; what they leave running must not write any more."""
    from driver import kernel

    setting = setting or set_up(job, ahead=False)
    try:
        with setting.stack, progress.Cells(job.name, page, job.beside_others) as cells:
            kernel.run_cells(page, setting.place, job.limits, cells.start_cell, setting.ahead)
    finally:
        end_processes(str(job.out), job.name)


def failure(job: Job, page: "NotebookNode", error: Exception) -> Failure:
    """Return why the job's stage did not finish."""
    cause = "\n".join(str(error).strip().splitlines()[-12:])
    fix = getattr(error, "fix", "")
    if "No space left" in cause:
        fix = f"{shutil.disk_usage(job.out).free / MB:,.0f} MB are free on the disk of {job.out}: make room."
    cell = progress.label(page, error.index) if isinstance(error, CellFailed) else ""
    failed = records.executed(job.name, job.out, "failed.ipynb")
    log = records.executed(job.name, job.out, "log")
    come_to = str(failed) if failed.exists() else ""
    return Failure(job.name, cell, cause, fix, isinstance(error, KernelKilled), come_to, str(log))


# --- all of them ------------------------------------------------------------------------------------------------------


def run_jobs(jobs: list[Job], executor: Executor, force: bool = False) -> dict[str, Outcome]:
    """Run what is not up to date, each stage after those it needs; return what came of each.

    When a stage fails, all that does not need it still runs; then Failed tells of every failure.
    """
    running: dict[Future[Outcome], Job] = {}
    outcomes: dict[str, Outcome] = {}
    once_more = set()
    try:
        while True:
            while len(running) < executor.width and (job := next_job(jobs, running, outcomes)):
                if force or state(job) != "done":
                    running[executor.submit(job, job_after(job, jobs, force))] = job
                else:
                    seconds = (records.read_manifest(job.name, job.out) or {"seconds": 0.0})["seconds"]
                    outcomes[job.name] = Outcome(job.name, seconds, up_to_date=True)
                    print(outcomes[job.name], flush=True)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                outcome = future.result()
                if outcome.failure and outcome.failure.killed and job.beside_others and job.name not in once_more:
                    once_more.add(job.name)
                    print(f"{job.name}: the kernel was killed, it runs once more", flush=True)
                    running[executor.submit(job, None)] = job
                else:
                    outcomes[job.name] = outcome
                    print(outcome, flush=True)
    except BaseException:
        executor.stop()
        raise
    return all_finished(jobs, outcomes)


def next_job(jobs: list[Job], running: dict[Future[Outcome], Job], outcomes: dict[str, Outcome]) -> Job | None:
    """Return the first job that has not been started and of which all that it needs, among the jobs, is finished."""
    started = {job.name for job in running.values()} | outcomes.keys()
    open_needs = {job.name for job in jobs if job.name not in outcomes or outcomes[job.name].failure}
    ready = (job for job in jobs if job.name not in started and not open_needs & set(job.stage.needs))
    return next(ready, None)


def job_after(job: Job, jobs: list[Job], force: bool) -> Job | None:
    """Return the next job of the list that has never been finished, or None: whether a finished one must run again is seen later."""
    later = jobs[jobs.index(job) + 1 :]
    return next((each for each in later if force or records.read_manifest(each.name, each.out) is None), None)


def all_finished(jobs: list[Job], outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """Return the outcomes; Failed when one is a failure."""
    failures = tuple(outcome.failure for outcome in outcomes.values() if outcome.failure)
    if failures:
        raise Failed(failures, tuple(job.name for job in jobs if job.name not in outcomes))
    return outcomes
