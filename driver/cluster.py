"""Work as tasks of a Ray cluster (--cluster), on nodes that share the project's folder and the output folder."""

import importlib.util
import secrets
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from driver import Refused, processes, scheduler
from driver.scheduler import Failure, Job, Outcome
from helpers import machine
from helpers.files import ROOT

CPUS = 2  # that a task asks for at most, as many as the demo's pinned threads; more help one training little
RETRIES = 3  # how often a task runs again whose node or process was lost


def connect(address: str, shared: Path, show: bool) -> dict[str, float]:
    """Connect to the Ray cluster at the address, or the one that runs here for "auto"; return what a task asks for.

    What tasks print is shown here, if asked for.
    Refused says what is not there, or which node does not see the shared folder, this project or the same packages.
    """
    if importlib.util.find_spec("ray") is None:
        raise Refused("--cluster needs Ray. Type: pip install -r requirements-cluster.txt")
    import ray

    paths = [str(ROOT), str(ROOT / "notebooks")]

    def find_project() -> None:  # at the start of each worker, which has not this module's path yet
        import sys

        sys.path[:0] = paths

    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        ray.init(
            address,
            logging_level="warning",
            log_to_driver=show,
            runtime_env={"worker_process_setup_hook": find_project},
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(
            f"--cluster {address}: no Ray cluster answers ({str(error).splitlines()[0]}). Start one: ray start --head"
        ) from None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    try:
        check_nodes(nodes, shared)
    except ray.exceptions.RayError as error:
        raise Refused(f"--cluster {address}: a node does not answer ({str(error).strip().splitlines()[-1]})") from None
    cpus = min(
        [CPUS, *(int(node["Resources"].get("CPU", 0)) for node in nodes if node["Resources"].get("CPU", 0) >= 1)]
    )
    return {"num_cpus": cpus, "num_gpus": int(any(node["Resources"].get("GPU") for node in nodes))}


def check_nodes(nodes: list[dict[str, Any]], shared: Path) -> None:
    """Return when every node sees a file written here, this project, and the packages that may change a number."""
    token = shared / f".cluster.{secrets.token_hex(8)}.tmp"
    project = Path(__file__)
    wanted = {str(token): token.name, str(project): project.read_text(encoding="utf-8")}

    def differs() -> str:  # runs on the node, where this module may not be
        import pathlib

        for path, text in wanted.items():
            try:
                if pathlib.Path(path).read_text(encoding="utf-8") != text:
                    return f"sees another {path} than this machine"
            except OSError as error:
                return f"does not see {path} ({error.strerror}): it must share this folder"
        from helpers.machine import versions

        return "" if versions() == here else f"has other packages than this machine: {versions()}, not {here}"

    here = machine.versions()
    try:
        token.write_text(token.name, encoding="utf-8")
        for node, answer in zip(nodes, on_each(nodes, differs), strict=True):
            if answer:
                raise Refused(f"The node {node['NodeManagerHostname']} ({node['NodeID'][:8]}) {answer}.")
    finally:
        token.unlink(missing_ok=True)


def on_each(nodes: list[dict[str, Any]], function: Any, *arguments: object) -> list[Any]:
    """Return what the function returns on each node; it asks for no CPU, so that it runs beside what runs there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = [
        ray.remote(function)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(*arguments)
        for node in nodes
    ]
    return ray.get(there, timeout=120)


def run_here(job: Job) -> Outcome:
    """Run a job on this node, once what a lost worker may have left of it here is gone."""
    processes.end_processes(str(job.out), job.name)
    return scheduler.run_stage(job)


class ClusterExecutor:
    """Runs jobs as Ray tasks, one GPU to each where the cluster has any; a job whose node is lost runs again elsewhere."""

    width = 10_000  # Ray itself holds back what there are no CPUs for

    def __init__(self, address: str, out: Path) -> None:
        asked = connect(address, out, show=True)
        import ray

        self.task = ray.remote(max_retries=RETRIES, **asked)(run_here)
        self.running: dict[Any, Job] = {}

    def submit(self, job: Job) -> Future[Outcome]:
        """Start the job on the cluster."""
        reference = self.task.remote(job)
        self.running[reference] = job
        done: Future[Outcome] = Future()
        reference.future().add_done_callback(lambda there: done.set_result(self.outcome(job, there)))
        return done

    def outcome(self, job: Job, there: Future[Outcome]) -> Outcome:
        """Return what came of the job; where Ray gave it up, that is a failure as any other."""
        error = there.exception()
        if error is None:
            return there.result()
        log = str(job.out / "executed")
        cause = f"Ray gave it up: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        return Outcome(job.name, 0.0, Failure(job.name, "", cause, "", False, "", log))

    def stop(self) -> None:
        """End the workers, with which their kernels die, and what is left of this run on any node."""
        import ray

        outs = {str(job.out) for job in self.running.values()}
        for reference in self.running:
            ray.cancel(reference, force=True)
        if self.running:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=30)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        for out in outs:
            on_each(nodes, processes.end_processes, out)
        ray.shutdown()
