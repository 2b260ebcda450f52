"""Stages and parts on a Ray cluster: two nodes of one core each on this machine, one of them lost in the middle."""

import importlib.util
import os
import signal
import subprocess
import sys

import pandas as pd
import psutil
import pytest
from test_classify import COMMAND, model, run, write_rows  # noqa: F401  # model is a fixture
from test_scheduler import jobs_of
from toy import BUSY, DEAF, alive, pids, ran, wait_for

from driver import Refused, cluster, processes
from helpers import machine

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and /proc as on Linux")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -r requirements-cluster.txt"
)


@pytest.fixture(scope="module")
def two_nodes():
    """Return a cluster of two nodes of one core each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.fixture
def node_to_lose(two_nodes):
    """Return the second node and the id of its raylet; there is another one afterwards."""
    lost = next(iter(two_nodes.worker_nodes))
    yield lost, lost.all_processes["raylet"][0].process.pid
    if lost not in two_nodes.worker_nodes:
        two_nodes.add_node(num_cpus=1)


def is_under(pid: int, ancestor: int) -> bool:
    """Return whether a process descends from another one."""
    try:
        return ancestor in [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.Error:  # it has ended
        return False


@needs_ray
@pytest.mark.slow
def test_a_cluster_gives_the_results_of_one_after_the_other(fresh, two_nodes):
    seeds = ("--seeds", "1", "2", "3")
    done = fresh.run(*seeds)
    alone = {name: content for name, content in fresh.files().items() if name.startswith(("data", "models", "results"))}
    assert done.returncode == 0 and alone
    done = fresh.run(*seeds, "--force", "--cluster", two_nodes.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(ran(done.stdout)) == 15
    assert {name: fresh.files()[name] for name in alone} == alone
    assert ran(fresh.run(*seeds).stdout) == []  # made as this machine would make it


WAITS = BUSY + (
    "Path(OUT, f'started-{os.getpid()}').touch()\nwhile not Path(OUT, 'go').exists():\n    time.sleep(0.05)\n"
)


def kernels_of(project):
    """Return the process ids of the kernels in which a WAITS cell has begun."""
    return [int(path.name.partition("-")[2]) for path in project.out.rglob("started-*")]


@needs_ray
@pytest.mark.slow
def test_a_lost_nodes_stages_run_again_elsewhere_and_its_kernels_are_gone(fresh, two_nodes, node_to_lose):
    undisturbed = fresh.copy_to(fresh.folder.with_name("undisturbed"))
    seeds = ("--seeds", "1", "2")
    assert undisturbed.run(*seeds).returncode == 0
    page = fresh.path("03_distilbert_lora").read_bytes()
    fresh.add("03_distilbert_lora", WAITS)
    lost, raylet = node_to_lose
    run = fresh.start(*seeds, "--cluster", two_nodes.address)
    there = wait_for(lambda: [pid for pid in kernels_of(fresh) if is_under(pid, raylet)])
    two_nodes.remove_node(lost, allow_graceful=False)
    wait_for(lambda: not alive(there))
    for folder in [fresh.out, *fresh.out.glob("seeds/*")]:
        (folder / "go").touch()
    assert run.wait(timeout=300) == 0, (fresh.folder / "driver.txt").read_text()
    assert len(set(kernels_of(fresh))) == 3  # two seeds, and the one again
    fresh.path("03_distilbert_lora").write_bytes(page)
    results = {name: content for name, content in undisturbed.files().items() if name.startswith("results")}
    assert results and {name: fresh.files()[name] for name in results} == results


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_its_kernels(fresh, two_nodes, number):
    fresh.add("01_data", DEAF)
    run = fresh.start("--cluster", two_nodes.address)
    busy = pids(fresh)
    assert len(alive(busy)) == 2
    run.send_signal(number)
    told = fresh.folder / "driver.txt"
    assert run.wait(timeout=120) == 128 + number and "Stopped by" in told.read_text(), told.read_text()
    wait_for(lambda: not alive(busy))


@needs_ray
@pytest.mark.slow
def test_stopping_ends_the_kernels_on_every_node(fresh, two_nodes, monkeypatch):
    names = ["01_data", "02_test_data"]
    for name in names:
        fresh.add(name, WAITS)
    fresh.out.mkdir(parents=True)
    executor = cluster.ClusterExecutor(two_nodes.address, fresh.out)
    for job in jobs_of(fresh)[:2]:
        executor.submit(job, None)
    kernels = wait_for(lambda: started if len(started := kernels_of(fresh)) == 2 else None)
    monkeypatch.setattr(processes, "marked", lambda *_: [])  # in this process, which could reach all nodes of a test
    executor.stop()
    wait_for(lambda: not alive(kernels))


@needs_ray
@pytest.mark.slow
def test_what_another_node_scores_is_what_this_machine_scores_a_node_lost_or_not(
    model,  # noqa: F811
    tmp_path,
    two_nodes,
    node_to_lose,
):
    ids = write_rows(tmp_path / "rows.csv", 4_000)
    assert run(model, tmp_path / "rows.csv", tmp_path / "here.parquet").returncode == 0
    command = [str(word) for word in (*COMMAND, model, tmp_path / "rows.csv", "--out", tmp_path / "there.parquet")]
    with open(tmp_path / "told", "w") as told:
        process = subprocess.Popen([*command, "--cluster", two_nodes.address], stdout=told, stderr=told)
    lost, raylet = node_to_lose

    def scores_there():
        scorers = [
            each for each in psutil.process_iter(["cmdline"]) if "(Scorer)" in " ".join(each.info["cmdline"] or [])
        ]
        return any(is_under(each.pid, raylet) for each in scorers)

    wait_for(scores_there)
    two_nodes.remove_node(lost, allow_graceful=False)
    assert process.wait(timeout=300) == 0, (tmp_path / "told").read_text()
    found, here = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("there", "here"))
    assert found["id"].tolist() == ids and not (tmp_path / ".there.parquet.parts").exists()
    pd.testing.assert_frame_equal(found, here)


def test_without_ray_a_cluster_is_refused_with_what_to_install(fresh, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else found(name, *more))
    with pytest.raises(Refused, match=r"pip install -r requirements-cluster\.txt"):
        cluster.connect("auto", fresh.folder, show=True)


NODE = {"NodeManagerHostname": "far", "NodeID": "0123456789"}
UNFIT = {
    "another disk": ("does not see .*it must share", lambda folder, _: next(folder.glob(".cluster*")).unlink()),
    "another file of that name": ("sees another", lambda folder, _: next(folder.glob(".cluster*")).write_text("x")),
    "other packages": ("has {'torch': '0'}", lambda _, patch: patch.setattr(machine, "versions", lambda: OTHER)),
    "another project": ("has {'code': ", lambda folder, patch: patch.setattr(cluster, "ROOT", folder)),
}
OTHER = machine.versions() | {"torch": "0"}


@pytest.mark.parametrize("words, change", UNFIT.values(), ids=UNFIT)
def test_a_node_that_sees_another_disk_or_has_other_packages_is_refused(tmp_path, monkeypatch, words, change):
    def there(nodes, function):
        change(tmp_path, monkeypatch)
        return [function()]

    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(cluster, "on_each", lambda nodes, function: [function()])
    cluster.check_nodes([NODE], tmp_path)
    monkeypatch.setattr(cluster, "on_each", there)
    with pytest.raises(Refused, match=f"node far .*{words}"):
        cluster.check_nodes([NODE], tmp_path)
    assert not list(tmp_path.iterdir())
