"""How figures are taken and told: runs side by side in processes of their own, their ratios, and the machine they ran on."""

import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import psutil

from helpers.files import ROOT
from helpers.machine import CPUINFO, choose_computing, peak_memory_mb, versions

INSTRUCTIONS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "sve")  # that matter here, as torch calls them


def in_child(function: str, **given: object) -> dict:
    """Call module:function(**given) in a new process; return its dict, with the peak memory in MB and all its seconds."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-m", "benchmarks.measure", function, json.dumps(given, default=str)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function} {given} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": time.perf_counter() - started}


def child(function: str, given: str) -> None:
    """Print, as JSON on the last line, the dict that the function returns, with this process's peak memory."""
    module, name = function.split(":")
    found = getattr(importlib.import_module(module), name)(**json.loads(given))
    memory = peak_memory_mb()
    print(json.dumps(found | {"peak_mb": memory["cuda"] or memory["host"]}))


def side_by_side(name: str, sides: Mapping[str, Callable[[], dict]], repeats: int) -> dict[str, list[dict]]:
    """Run all sides in turn, that many times, and say so while it goes; return each side's dicts in order."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for repeat in range(1, repeats + 1):
        for side, run in sides.items():
            print(f"  {name}: {side}, {repeat} of {repeats} … ", end="", flush=True)
            started = time.perf_counter()
            found[side].append(run())
            print(f"{time.perf_counter() - started:.1f} s", flush=True)
    return found


def figure(name: str, unit: str, other: list[float], series: list[float], more_is_better: bool) -> dict:
    """Return one line of the table: both sides' medians, and how many times better the series is.

    The ratio is the median of the ratios of runs that followed each other; its spread is their least and greatest.
    """
    ratios = [(s / o if more_is_better else o / s) for o, s in zip(other, series, strict=True)]
    line = alone(name, unit, series)
    return line | {
        "other": statistics.median(other),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }


def alone(name: str, unit: str, values: list[float]) -> dict:
    """Return one line of the table for what the series is not compared in: the median and the spread of its values."""
    return {"name": name, "unit": unit, "series": statistics.median(values), "spread": [min(values), max(values)]}


def machine() -> dict:
    """Return what the figures depend on: processor, load, memory, threads, device, versions, and the code's commit."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    load = round(psutil.getloadavg()[0], 2)  # before the child below adds to it
    seen = in_child("benchmarks.measure:torch_sees")
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_at_start": load,
        **{name: seen[name] for name in ("instructions", "torch_threads", "device", "precision")},
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions() | {"pyarrow": importlib.metadata.version("pyarrow")},
        "commit": commit.stdout.strip(),
    }


def processor() -> str:
    """Return the processor's name as the system tells it."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def torch_sees() -> dict:
    """Return the CPU's instruction sets, torch's threads and device, and the precision in which the series trains there."""
    import torch  # not in the process that starts the others: a child's peak memory counts from its parent's

    computing = choose_computing("auto", "auto")
    has = torch.cpu.get_capabilities()
    return {
        "instructions": [name for name in INSTRUCTIONS if has.get(name)],
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if computing.device.type == "cuda" else "cpu",
        "precision": computing.precision_name,
    }


def shown(value: float) -> str:
    """Return the number with three digits that count, or all its digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def table(figures: list[dict]) -> str:
    """Return the figures as aligned lines; a lower bound on a ratio is shown as one."""
    lines = [f"{'':46}{'other':>12}{'series':>12}  {'unit':12}{'ratio':>9}  min..max"]
    for line in figures:
        other = shown(line["other"]) if "other" in line else ""
        ratio = line.get("bound", "") + f"{shown(line['ratio'])} x" if "ratio" in line else ""
        low, high = map(shown, line["spread"])
        text = f"{line['name']:46}{other:>12}{shown(line['series']):>12}  {line['unit']:12}{ratio:>9}  {low}..{high}"
        lines.append(text + (f"  {line['note']}" if line.get("note") else ""))
    return "\n".join(lines)


def about(result: dict) -> str:
    """Return in words what a result was measured on and with; those before instruction sets were noted do without them."""
    machine = result["machine"]
    used = result["used"]
    instructions = f" with {', '.join(machine['instructions'])}" if machine.get("instructions") else ""
    return (
        f"{machine['processor']}{instructions}, {machine['threads']} threads, {machine['memory_gb']} GB; on "
        f"{machine['device']} in {machine['precision']}; load {machine['load_at_start']} at the start. "
        f"{result['scale'].capitalize()}: data {used['data']}, models {', '.join(sorted(set(used['models'].values())))}"
    )


def page(results: dict[str, dict]) -> str:
    """Return result files, {name: content}, as a Markdown page: a section a file, its machine and settings, its table."""
    parts = [
        "# Measured",
        "Written by `python benchmarks/run.py --show`. The ratio says how many times better the series is.",
    ]
    for name, result in results.items():
        settings = result["settings"]
        batch = f"batches of {settings['batch_size']}" if settings["batch_size"] else "each recipe's own batches"
        parts += [
            f"## {name}",
            f"{about(result)}; {batch}; {settings['repeats']} repeats ({settings['quality_repeats']} of the time to "
            f"quality). Code {result['machine']['commit']}.",
            f"```\n{table(result['figures'])}\n```",
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    child(*sys.argv[1:])
