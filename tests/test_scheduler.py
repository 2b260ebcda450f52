"""Jobs and outcomes: a stage runs in any process with nothing but its job, and the scheduler knows no threads."""

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from toy import NAMES, finishes

from driver import Failed, Stopped, parameters, processes, scheduler, stages
from driver.scheduler import Failure, Limits, Outcome, run_jobs, run_stage


def jobs_of(project, beside_others=False, **series) -> list[scheduler.Job]:
    """Return the jobs of a project's series, made as run_all.py makes them."""
    values = {name: parameters.defaults(project.path(name)) for name in stages.NAMES}
    environment = processes.environment(project.out)
    every = stages.series(**series)
    return scheduler.make_jobs(every, values, project.folder, project.out, Limits(1, 1), environment, beside_others)


# --- a stage in another process ---------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(fresh):
    """Return what runs a project's first stage in a process of its own, which is given its job and nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda: pool.submit(run_stage, jobs_of(fresh)[0]).result(timeout=100)


def test_a_stage_runs_in_another_process_with_nothing_but_its_job(fresh, elsewhere):
    fresh.add("01_data", "import os\nprint(os.environ['RUN_ALL_OUT'], os.environ['IPYTHONDIR'])")
    outcome = elsewhere()
    assert outcome == Outcome("01_data", outcome.seconds) and outcome.seconds > 0
    assert fresh.manifest("01_data")["seconds"] == outcome.seconds
    assert f"{fresh.out} {fresh.out / 'executed/.tmp'}" in (fresh.out / "executed/01_data.ipynb").read_text()
    assert scheduler.state(jobs_of(fresh)[0]) == "done"


@pytest.mark.parametrize(
    "code, killed, cause, fix",
    [("1 / 0", False, "ZeroDivisionError: division by zero", ""), ("os.kill(os.getpid(), 9)", True, "killed", "lower")],
    ids=["fails", "killed"],
)
def test_what_stopped_a_stage_in_another_process_comes_back_in_fields(fresh, elsewhere, code, killed, cause, fix):
    fresh.edit("01_data", f"import os\n{code}")
    failure = elsewhere().failure
    assert (failure.stage, failure.cell, failure.killed) == ("01_data", "cell 2 of 4, Work", killed)
    assert cause in failure.cause and fix in failure.fix and bool(fix) == bool(failure.fix)
    assert Path(failure.page).name == "01_data.failed.ipynb" and Path(failure.log).exists()
    assert fresh.manifest("01_data") is None


# --- the order of jobs ------------------------------------------------------------------------------------------------


class Told:
    """An executor that runs nothing: each job ends at once, as it is told it should."""

    def __init__(self, *ends, width: int = 1):
        self.width = width
        self.ends = list(ends)  # (stage, an outcome's failure or an error) of the jobs that do not simply finish
        self.submitted, self.after = [], {}
        self.stopped = False

    def submit(self, job, then):
        """Return a future that has ended."""
        self.submitted.append(job.name)
        self.after[job.name] = then and then.name
        end = next((end for end in self.ends if end[0] == job.name), (job.name, None))
        if end in self.ends:
            self.ends.remove(end)
        future = Future()
        if isinstance(end[1], BaseException):
            future.set_exception(end[1])
        else:
            future.set_result(Outcome(job.name, 1.0, end[1]))
        return future

    def stop(self):
        """Note that all was to end."""
        self.stopped = True


def failed(stage: str, killed: bool = False) -> tuple[str, Failure]:
    """Return the end of a stage that fails."""
    return stage, Failure(stage, "", "a cause", "", killed, "", "")


def test_jobs_run_after_those_they_need_in_the_order_of_the_series(fresh):
    executor = Told()
    outcomes = run_jobs(jobs_of(fresh, seeds=[1, 2]), executor)
    more = [f"seeds/2/{name}" for name in NAMES[2:5]]
    assert executor.submitted == list(outcomes) == [*NAMES[:5], *more, *NAMES[5:]] and not executor.stopped


def test_a_wide_executor_is_given_all_that_can_run(fresh):
    executor = Told(width=9)
    run_jobs(jobs_of(fresh, seeds=[1, 2]), executor)
    assert executor.submitted[2:4] == [NAMES[2], f"seeds/2/{NAMES[2]}"]


@pytest.mark.parametrize("beside_others", [True, False])
def test_a_killed_kernel_runs_once_more_where_others_ran_beside_it_and_only_once(fresh, beside_others):
    executor = Told(failed("01_data", killed=True), failed("01_data", killed=True), failed("01_data", killed=True))
    with pytest.raises(Failed) as caught:
        run_jobs(jobs_of(fresh, beside_others), executor)
    assert executor.submitted == ["01_data"] * (2 if beside_others else 1)
    assert [failure.stage for failure in caught.value.failures] == ["01_data"]


def test_a_retry_that_ends_well_is_no_failure(fresh):
    outcomes = run_jobs(jobs_of(fresh, beside_others=True), Told(failed("04_gpt2_lora", killed=True)))
    assert list(outcomes) == list(NAMES)


def test_a_failure_is_not_run_again_and_keeps_back_what_needs_it(fresh):
    executor = Told(failed("seeds/2/04_gpt2_lora"))
    with pytest.raises(Failed) as caught:
        run_jobs(jobs_of(fresh, beside_others=True, seeds=[1, 2, 3]), executor)
    assert caught.value.not_started == ("seeds/2/05_gpt2_qlora", *NAMES[5:])
    assert executor.submitted.count("seeds/2/04_gpt2_lora") == 1 and "seeds/3/05_gpt2_qlora" in executor.submitted


@pytest.mark.parametrize("error", [Stopped(15), TypeError("a fault of the driver's own")], ids=repr)
def test_what_breaks_the_loop_stops_the_executor(fresh, error):
    executor = Told(("02_test_data", error))
    with pytest.raises(type(error)):
        run_jobs(jobs_of(fresh), executor)
    assert executor.stopped


def test_what_is_up_to_date_is_run_by_force_only(finished):
    jobs = jobs_of(finished)
    jobs[5] = replace(jobs[5], values=jobs[5].values | {"SEED": 1})
    executor = Told()
    outcomes = run_jobs(jobs, executor)
    assert executor.submitted == ["06_comparing"] and all(outcomes[name].up_to_date for name in NAMES[:5])
    assert executor.after == {"06_comparing": None}  # what comes after is whole, and may stay as it is
    run_jobs(jobs[:2], executor, force=True)
    assert executor.submitted[1:] == list(NAMES[:2]) and executor.after["01_data"] == "02_test_data"


# --- the kernel of the next stage -------------------------------------------------------------------------------------

NEXT = f"""
import contextlib, os, time
import psutil
marks = {{"{processes.STAGE}": "02_test_data", "{processes.MARK}": os.environ["{processes.MARK}"]}}
def waiting():
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if marks.items() <= process.environ().items():
                return process
end = time.monotonic() + 100
while not (found := waiting()) and time.monotonic() < end:
    time.sleep(0.05)
assert found, "no kernel waits"
"""


def test_the_next_stages_kernel_starts_beside_the_present_one_and_imports_what_its_notebook_will(fresh):
    fresh.add("01_data", NEXT)
    fresh.add("02_test_data", "import sys\nbefore = 'this' in sys.modules\nimport this\nassert before")
    wide = "import pandas\nassert before and pandas.get_option('display.max_columns') == 20"  # as in JupyterLab
    fresh.add("03_distilbert_lora", f"import sys\nbefore = 'pandas' in sys.modules\n{wide}")
    done = fresh.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Beautiful is better" in (fresh.out / "executed/02_test_data.log").read_text()
    assert "Beautiful is better" not in (fresh.out / "executed/02_test_data.ipynb").read_text()


def test_a_kernel_that_dies_while_it_waits_is_started_again(fresh):
    fresh.add("01_data", f"{NEXT}\nfound.kill()\nwhile found.status() != 'zombie':\n    time.sleep(0.01)")
    finishes(fresh, NAMES)


def test_a_kernel_that_waits_for_nothing_is_ended(fresh):
    fresh.add("01_data", f"{NEXT}\n1 / 0")
    done = fresh.run()
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert not processes.marked(str(fresh.out), None)


# --- the graph --------------------------------------------------------------------------------------------------------


def test_each_stage_knows_where_the_data_that_it_reads_were_written():
    series = stages.series([1, 2], controls=True)
    assert {stage.series for stage in series} == {""}
    swept = stages.swept(series, "RANK", [2, 4], ["04_gpt2_lora"])
    assert {stage.series for stage in swept} == {"sweep/RANK=2", "sweep/RANK=4"}
    own = {stage.name: stage.values for stage in swept}
    assert own["sweep/RANK=4/seeds/2/04_gpt2_lora"] == {"SEED": 2, "RANK": 4}
    assert own["sweep/RANK=2/03_distilbert_lora"] == {"SEED": 1}
    judged = [*stages.TRAININGS, "appendix_controls"]
    assert own["sweep/RANK=2/06_comparing"]["RUNS"] == [*judged, *(f"seeds/2/{name}" for name in judged)]


def test_the_controls_of_each_seed_need_its_adapters_and_the_one_map_of_learning_rates():
    needs = {stage.name: set(stage.needs) for stage in stages.series([1, 2], controls=True)}
    order = list(needs)
    assert all(order.index(need) < order.index(name) for name in order for need in needs[name])
    adapters = {"03_distilbert_lora", "04_gpt2_lora"}
    assert needs["appendix_rates"] == {*stages.DATA, *adapters} and "seeds/2/appendix_rates" not in needs
    assert needs["appendix_controls"] == {*needs["appendix_rates"], "appendix_rates"}
    there = {f"seeds/2/{name}" for name in adapters}
    assert needs["seeds/2/appendix_controls"] == {*stages.DATA, *there, "appendix_rates"}
    judged = {name for name in needs if "_lora" in name or "_qlora" in name or "controls" in name}
    assert len(judged) == 8 and needs["06_comparing"] == {*stages.DATA, *judged}
    assert needs["appendix_errors"] == {*needs["06_comparing"], "06_comparing"}
    alone = {stage.name: stage for stage in stages.series([1, 2])}
    assert not set(stages.CONTROLS) & {stage.notebook for stage in alone.values()}
    assert "appendix_controls" not in alone["06_comparing"].needs


def test_a_kernel_is_told_where_that_is(fresh):
    found = {job.name: job.environment["RUN_ALL_SERIES"] for job in jobs_of(fresh, seeds=[1, 2])}
    assert found["seeds/2/03_distilbert_lora"] == found["01_data"] == str(fresh.out)
