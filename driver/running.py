"""The stages as they run: each after those it needs, one at a time or side by side, and what to tell when one fails."""

import contextlib
import shutil
import time
from argparse import Namespace
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from driver import CellFailed, KernelKilled, Stopped, Unmade, guard, progress, records, surroundings
from driver.progress import duration
from driver.records import Stage
from helpers.files import MB, sha256, write_whole


class Failed(Exception):
    """A notebook did not finish; the text names notebook, cell, cause and fix; `killed` says that its kernel was."""

    def __init__(self, text: str, killed: bool = False):
        super().__init__(text, killed)
        self.killed = killed

    def __str__(self) -> str:
        return self.args[0]


def state(stage: Stage, values: dict, root: Path, out: Path) -> str:
    """Return "done" when the stage is whole and nothing that it depends on has changed, or else why it must run."""
    reason = records.unfinished(stage.name, out)
    if not reason:
        changed = records.changes(stage.name, records.inputs(stage, values, root, out), out)
        reason = f"stale, changed: {', '.join(changed)}" if changed else ""
    return reason or "done"


def run_stage(stage: Stage, values: dict, root: Path, out: Path, options: Namespace, gpus: surroundings.Gpus) -> float:
    """Run one notebook, write its executed copy and, last of all, its manifest; return the seconds it took.

    The checkpoints of its training, from which it goes on when it is killed, are dropped only then. Failed
    says what went wrong; the notebook as far as it came is then executed/NAME.failed.ipynb.
    """
    from driver import kernel  # papermill takes two seconds to import

    inputs, before, started = records.inputs(stage, values, root, out), records.stamps(stage, out), time.monotonic()
    failed, log = records.executed(stage.name, out, "failed.ipynb"), records.executed(stage.name, out, "log")
    page = kernel.with_parameters(root / "notebooks" / f"{stage.notebook}.ipynb", values)
    limits = (options.cell_limit, options.stage_limit)
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            gpus.one() as gpu,
            guard.short_folder(out, kernel.LONGEST) as sockets,
            progress.Cells(stage.name, page, beside_others=options.jobs > 1) as cells,
        ):
            marks = {guard.STAGE: stage.name} | gpu
            kernel.run_cells(page, root / "notebooks", log, limits, cells.start_cell, marks, sockets)
        guard.end_processes(out, stage.name)  # what the cells left running must not write any more
        made, executed = records.made(stage, out, before), records.executed(stage.name, out, "ipynb")
        write_whole(executed, kernel.as_text(page))
        made[executed.relative_to(out).as_posix()] = sha256(executed)
        failed.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        records.finish(stage, values, root, inputs, made, seconds, out)
        shutil.rmtree(out / stage.folder / "models/checkpoints" / stage.notebook, ignore_errors=True)
        return seconds
    except (CellFailed, Unmade, OSError, RuntimeError) as error:
        guard.end_processes(out, stage.name)
        with contextlib.suppress(OSError):  # a full disk; the error itself is what matters
            write_whole(failed, kernel.as_text(page))
        raise Failed(report(stage, page, error, out), isinstance(error, KernelKilled)) from error


def run_once_more(stage: Stage, values: dict, root: Path, out: Path, options: Namespace, gpus) -> float:
    """Run one notebook, a second time when others ran beside it and its kernel was killed; return the seconds it took."""
    try:
        return run_stage(stage, values, root, out, options, gpus)
    except Failed as error:
        if options.jobs == 1 or not error.killed:
            raise
        print(f"{stage.name}: the kernel was killed, it runs once more", flush=True)
        return run_stage(stage, values, root, out, options, gpus)


def report(stage: Stage, page, error: Exception, out: Path) -> str:
    """Return what to tell about a stage that failed: notebook, cell, cause and fix."""
    where = ", " + progress.label(page, error.index) if hasattr(error, "index") else ""
    cause = "\n".join(f"{error} {getattr(error, 'fix', '')}".strip().splitlines()[-12:])
    if "No space left" in cause:
        cause += f"\n{shutil.disk_usage(out).free / MB:,.0f} MB are free on the disk of {out}: make room."
    failed, log = (records.executed(stage.name, out, ending) for ending in ("failed.ipynb", "log"))
    return (
        f"FAILED {stage.name}{where}\n{cause}\nSee {failed if failed.exists() else log}; all that it printed: {log}.\n"
        f"Fix the cause, then type the same command again; finished notebooks are kept:\n{guard.command()}"
    )


def run_stages(stages: list[Stage], values: dict, root: Path, out: Path, options: Namespace) -> dict[str, str]:
    """Run what is not up to date, each stage after those it needs, up to `jobs` at once.

    Return {stage: how long it took, in brackets if that was in an earlier run}. When a stage fails, all that does not
    need it still runs; then Failed tells of every failure.
    """
    waiting, running, times, failures, gpus = list(stages), {}, {}, {}, surroundings.Gpus()
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            while waiting or running:
                for stage in waiting[:]:
                    lacking = [s.name for s in stages if s.name in stage.needs and s.name not in times]
                    if failures.keys() & lacking:
                        failures[stage.name] = ""
                        waiting.remove(stage)
                    elif not lacking and len(running) < options.jobs:
                        waiting.remove(stage)
                        if state(stage, values[stage.name], root, out) == "done" and not options.force:
                            times[stage.name] = f"({duration(records.read_manifest(stage.name, out)['seconds'])})"
                            print(f"{stage.name:20} up to date {times[stage.name]}", flush=True)
                        else:
                            work = pool.submit(run_once_more, stage, values[stage.name], root, out, options, gpus)
                            running[work] = stage
                for work in wait(running, return_when=FIRST_COMPLETED).done:
                    stage = running.pop(work)
                    try:
                        times[stage.name] = duration(work.result())
                        print(f"{stage.name:20} {times[stage.name]}", flush=True)
                    except Failed as error:
                        failures[stage.name] = str(error)
                        print(f"{stage.name:20} failed", flush=True)
        except Stopped:
            while wait(running, timeout=0.2).not_done:
                guard.end_processes(out)  # again, for a kernel may just have been starting
            raise
    if failures:
        raise Failed(all_reports(failures))
    return times


def all_reports(failures: dict[str, str]) -> str:
    """Return the reports of the stages that failed, and the names of those that were not started for it."""
    kept_back = [name for name, text in failures.items() if not text]
    more = [f"Not started, for they need what failed: {', '.join(kept_back)}."] if kept_back else []
    return "\n\n".join([text for text in failures.values() if text] + more)
