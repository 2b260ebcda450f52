"""The series on two Ray nodes of one core each, as `ray start` makes them, beside `--jobs 1`: python tests/by_hand/on_a_cluster.py FOLDER

Three seeds, trained for one epoch on few complaints; predictions, weights and scores must be the same, times and memory aside.
Then again, and one node is killed with -9 in a training; then a file is classified by one worker and by two. Half an hour.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks"), str(ROOT / "tests" / "by_hand")]

from kill_classify import write_rows  # noqa: E402

from helpers.files import sha256  # noqa: E402
from helpers.sources import NARRATIVE  # noqa: E402
from mini.writer import write_complaints  # noqa: E402

RAY = Path(sys.executable).with_name("ray")
PORT = "6390"
HEAD = ["--head", "--port", PORT, "--include-dashboard", "false"]
ADDRESS = f"127.0.0.1:{PORT}"
COSTS = re.compile("second|memory|energy|costs?$|, s$|MB")  # the names of what two runs of the same do not share
SERIES = ["--mini", "--seeds", "42", "43", "44", "-p", "EPOCHS", "1", "-p", "TRAIN_ROWS", "200"]


def start_node(*how: str) -> int:
    """Start a Ray node of one core and return the id of its raylet."""
    command = [RAY, "start", *how, "--num-cpus", "1", "--disable-usage-stats"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return max((p for p in psutil.process_iter() if p.name() == "raylet"), key=lambda p: p.create_time()).pid


def start(out: Path, *more: str) -> subprocess.Popen:
    """Start the series into the folder."""
    command = [sys.executable, ROOT / "run_all.py", *SERIES, "--out", out, *more]
    out.mkdir(parents=True)
    with open(out / "told", "w") as told:
        return subprocess.Popen(list(map(str, command)), stdout=told, stderr=told)


def finish(process: subprocess.Popen, out: Path) -> None:
    """Wait for the series' end, and stop everything when it fails."""
    if process.wait():
        sys.exit((out / "told").read_text())


def without_costs(value: object) -> object:
    """Return the result without its times and memory."""
    if isinstance(value, dict):
        return {name: without_costs(each) for name, each in value.items() if not COSTS.search(name)}
    return [without_costs(each) for each in value] if isinstance(value, list) else value


def found(out: Path) -> dict[str, object]:
    """Return all that a run found out: hashes of tables and weights, and results without times and memory."""
    files = [path for folder in ("data", "models") for path in out.rglob(f"{folder}/**/*") if path.is_file()]
    kept: dict[str, object] = {str(path.relative_to(out)): sha256(path) for path in files if ".tmp" not in path.name}
    kept["predictions"] = sha256(out / "results/predictions.parquet")
    for path in out.rglob("results/*.json"):
        kept[str(path.relative_to(out))] = without_costs(json.loads(path.read_text()))
    return kept


def compare(one: dict[str, object], other: dict[str, object], what: str) -> None:
    """Print how many of the things found are the same, and stop when one is not."""
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    print(f"{what}: {len(one) - len(different)} of {len(one)} files are the same; different: {different}", flush=True)
    if different:
        sys.exit(1)


def trains_under(out: Path, raylet: int) -> bool:
    """Return whether a training under the raylet has written a checkpoint of the run in the folder."""
    kernels = [p for p in psutil.Process(raylet).children(recursive=True) if "in_kernel.py" in " ".join(p.cmdline())]
    stages = [kernel.environ().get("RUN_ALL_STAGE", "") for kernel in kernels]
    return any(list((out / Path(stage).parent).glob(f"models/checkpoints/{Path(stage).name}/*")) for stage in stages)


def classified(model: Path, rows: Path, out: Path) -> str:
    """Classify the rows on the cluster, and return what it printed last about its rate."""
    command = [sys.executable, ROOT / "classify.py", model, rows, "--out", out, "--cluster", ADDRESS]
    started = time.perf_counter()
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    rate = re.findall(r"[\d.]+row/s", done.stderr)[-1]
    return f"{time.perf_counter() - started:.0f} s, {rate}"


def main(folder: Path) -> None:
    """Run, compare, kill, compare, and classify."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    started = time.perf_counter()
    finish(start(folder / "alone"), folder / "alone")
    print(f"--jobs 1: {time.perf_counter() - started:.0f} s", flush=True)
    alone = found(folder / "alone")
    start_node(*HEAD)
    start_node("--address", ADDRESS)
    started = time.perf_counter()
    finish(start(folder / "two", "--cluster", ADDRESS), folder / "two")
    print(f"two nodes: {time.perf_counter() - started:.0f} s", flush=True)
    compare(alone, found(folder / "two"), "two nodes beside --jobs 1")
    raylet = max((p for p in psutil.process_iter() if p.name() == "raylet"), key=lambda p: p.create_time()).pid
    run = start(folder / "lost", "--cluster", ADDRESS)
    while not trains_under(folder / "lost", raylet):
        time.sleep(0.05)
    psutil.Process(raylet).kill()
    print("one node is killed in a training", flush=True)
    finish(run, folder / "lost")
    compare(alone, found(folder / "lost"), "a node lost, beside --jobs 1")
    export = [sys.executable, ROOT / "run_all.py", "--out", folder / "alone", "--export", "03_distilbert_lora"]
    subprocess.run(list(map(str, export)), check=True, stdout=subprocess.DEVNULL)
    told = pd.read_parquet(write_complaints(folder / "complaints.parquet")).dropna(subset=[NARRATIVE])
    rows, model = write_rows(folder / "rows.csv", 40_000, told), folder / "alone/models/03_distilbert_lora/merged"
    print(f"40,000 rows, one worker: {classified(model, rows, folder / 'one.parquet')}", flush=True)
    start_node("--address", ADDRESS)
    print(f"40,000 rows, two workers: {classified(model, rows, folder / 'both.parquet')}", flush=True)
    same = sha256(folder / "one.parquet") == sha256(folder / "both.parquet")
    print(f"the same bytes: {same}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve())
    finally:
        subprocess.run([RAY, "stop", "--force"], stdout=subprocess.DEVNULL)
