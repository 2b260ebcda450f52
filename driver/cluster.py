"""Work as tasks of a Ray cluster (--cluster), on nodes that share the project's folder and the output folder."""

import contextlib
import importlib.util
import os
import platform
import secrets
import signal
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from driver import Refused, processes, records, scheduler
from driver.scheduler import Failure, Job, Outcome
from helpers import machine
from helpers.files import ROOT, digest, sha256

CPUS = 2  # that a task asks for at most, as many as the demo's pinned threads; more help one training little
RETRIES = 3  # how often a task runs again whose node or process was lost


def connect(address: str, shared: Path, show: bool) -> dict[str, float]:
    """Connect to the Ray cluster at the address, or the one that runs here for "auto"; return what a task asks for.

    What tasks print is shown here, if asked for.
    Refused says what is not there, or which node does not see the shared folder, this project or the same packages.
    """
    if importlib.util.find_spec("ray") is None:
        raise Refused("--cluster needs Ray. Type: pip install -r requirements-cluster.txt")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # without it, for ever
    import ray

    paths = [str(ROOT), str(ROOT / "notebooks")]

    def find_project() -> None:  # at the start of each worker, which has not this module's path yet
        import sys

        sys.path[:0] = paths

    on_term = signal.getsignal(signal.SIGTERM)  # which Ray would replace
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        started = {"worker_process_setup_hook": find_project}
        ray.init(address, logging_level="warning", log_to_driver=show, runtime_env=started)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(
            f"--cluster {address}: no Ray cluster answers ({str(error).splitlines()[0]}). Start one: ray start --head"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, on_term)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    try:
        check_nodes(nodes, shared)
    except ray.exceptions.RayError as error:
        raise Refused(f"--cluster {address}: a node does not answer ({last_line(error)})") from None
    cpus = min(
        [CPUS, *(int(node["Resources"].get("CPU", 0)) for node in nodes if node["Resources"].get("CPU", 0) >= 1)]
    )
    return {"num_cpus": cpus, "num_gpus": int(any(node["Resources"].get("GPU") for node in nodes))}


def identity() -> dict[str, str]:
    """Return what must be the same on every node: the code, as a hash, and the packages that may change a number."""
    code = [
        path for pattern in ("*.py", "driver/*.py", "notebooks/helpers/*.py") for path in sorted(ROOT.glob(pattern))
    ]
    return {"code": digest([sha256(path) for path in code])[:12], **machine.versions()}


def require(wanted: dict[str, str]) -> None:
    """Return when this node has the code and packages of the one that started the run; ValueError says what differs."""
    own = identity()
    if differing := {name: own[name] for name in wanted if own[name] != wanted[name]}:
        raise ValueError(f"{platform.node()} has {differing}, where the run was started it is {wanted}")


def check_nodes(nodes: list[dict[str, Any]], shared: Path) -> None:
    """Return when every node sees a file written here, this project, and the packages that may change a number."""
    token, wanted = shared / f".cluster.{secrets.token_hex(8)}.tmp", identity()

    def differs() -> str:  # runs on the node, where this module may not be
        try:
            if token.read_text(encoding="utf-8") != token.name:
                return f"sees another {token.parent} than this machine"
            from driver.cluster import require

            require(wanted)
        except OSError as error:
            return f"does not see {token.parent} ({error.strerror}): it must share this folder"
        except ImportError as error:
            return f"does not have this project at the same path ({error})"
        except ValueError as error:
            return str(error)
        return ""

    try:
        token.write_text(token.name, encoding="utf-8")
        for node, answer in zip(nodes, on_each(nodes, differs), strict=True):
            if answer:
                raise Refused(
                    f"The node {node['NodeManagerHostname']} ({node['NodeID'][:8]}) cannot take part: {answer}."
                )
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


def run_here(job: Job, wanted: dict[str, str]) -> Outcome:
    """Run a job on this node, once what a lost worker may have left of it here is gone."""
    require(wanted)
    processes.end_processes(str(job.out), job.name)
    return scheduler.run_stage(job)


class ClusterExecutor:
    """Runs jobs as Ray tasks, one GPU to each where the cluster has any; a job whose node is lost runs again elsewhere."""

    width = 10_000  # Ray itself holds back what there are no CPUs for

    def __init__(self, address: str, out: Path) -> None:
        self.asked = connect(address, out, show=True)
        import ray

        self.wanted, self.out = identity(), out
        self.task = ray.remote(max_retries=RETRIES)(run_here)
        self.running: list[Any] = []
        self.sweep()  # what a run left whose machine was lost

    def submit(self, job: Job, then: Job | None) -> Future[Outcome]:
        """Start the job on the cluster, where none is started ahead."""
        asked = self.asked | ({"num_gpus": 0} if job.values.get("DEVICE") == "cpu" else {})
        reference = self.task.options(**asked).remote(job, self.wanted)
        self.running.append(reference)
        done: Future[Outcome] = Future()
        reference.future().add_done_callback(lambda there: done.set_result(outcome(job, there)))
        return done

    def sweep(self) -> None:
        """End what runs of this folder have left on any node; one that is lost cannot be reached, and needs not."""
        import ray

        for node in (node for node in ray.nodes() if node["Alive"]):
            with contextlib.suppress(ray.exceptions.RayError):
                on_each([node], processes.end_processes, str(self.out))

    def stop(self) -> None:
        """End the workers, with which their kernels die, and what is left of this run on any node."""
        import ray

        try:
            for reference in self.running:
                ray.cancel(reference, force=True)
            if self.running:
                ray.wait(self.running, num_returns=len(self.running), timeout=30)
            self.sweep()
        finally:
            ray.shutdown()


def outcome(job: Job, there: Future[Outcome]) -> Outcome:
    """Return what came of the job on a node; where Ray gave it up, that is a failure as any other."""
    error = there.exception()
    if error is None:
        return there.result()
    cause = f"Ray gave it up: {type(error).__name__}: {last_line(error)}"
    log = records.executed(job.name, job.out, "log")
    return Outcome(job.name, 0.0, Failure(job.name, "", cause, "", False, "", str(log)))


def last_line(error: BaseException) -> str:
    """Return the last line of an error from a node, which has a traceback before it."""
    return (str(error).strip().splitlines() or [""])[-1]
