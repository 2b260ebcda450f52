"""What surrounds a run changes nothing that it computes: variables, other modules, GPUs, homes, disks, encodings, logs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from by_hand.start_kernels import start
from toy import NAMES, ROOT, Project, ran

from driver import in_kernel, records, surroundings

posix = pytest.mark.skipif(os.name != "posix", reason="Unix sockets, shell scripts and mounts")


def shown(project, name: str = "01_data") -> str:
    """Return all that the cells of an executed notebook printed."""
    folder, _, notebook = name.rpartition("/")
    cells = nbformat.read(project.out / folder / f"executed/{notebook}.ipynb", 4).cells
    return "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)


def runs(project, *arguments, command: tuple = (), **variables: str) -> str:
    """Run the first notebook under these variables, check that it ends well, and return what its cells printed."""
    done = project.run("--only", "01_data", *arguments, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return shown(project)


# --- many kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_kernels_start_six_at_a_time_and_leave_no_folder():
    failures, starts, left = start(20, 6)
    assert not failures and not left and starts >= 20


DIES = """
import os, sys
if any(word.endswith("in_kernel.py") for word in sys.orig_argv):
    with open({diary!r}, "a") as diary:
        diary.write("x")
    if os.path.getsize({diary!r}) < 3:
        os._exit(1)
"""


def test_a_kernel_that_dies_before_it_answers_is_started_again(fresh):
    (fresh.folder / "more").mkdir()
    (fresh.folder / "more/sitecustomize.py").write_text(DIES.format(diary=str(fresh.folder / "diary")))
    runs(fresh, PYTHONPATH=str(fresh.folder / "more"))
    assert (fresh.folder / "diary").read_text() == "xxx"


LISTENS = """
import json, sys
from pathlib import Path
told = json.loads(Path(sys.argv[sys.argv.index("-f") + 1]).read_text())
print(told["transport"], Path(told["ip"]).parent)
"""


@posix
def test_a_kernel_listens_on_sockets_in_a_private_folder_however_long_the_outputs_path(fresh, tmp_path):
    fresh.out = tmp_path / "/".join(["o" * 100] * 3)
    fresh.add("01_data", LISTENS + "print(oct(Path(told['ip']).parent.stat().st_mode & 0o777))")
    (tmp_path / ("t" * 100)).mkdir()
    transport, folder, mode = runs(fresh, TMPDIR=str(tmp_path / ("t" * 100))).split()[:3]
    assert (transport, mode) == ("ipc", "0o700") and len(folder) < 91 and not Path(folder).exists()


# --- any place, any home, this interpreter -------------------------------------------------------------------------


def test_runs_in_an_odd_path_with_an_empty_home_from_anywhere(tmp_path):
    project = Project(tmp_path / "a {strange} päth's $HOME %s")
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = project.run("--only", "01_data", "02_test_data", cwd="/", env=environment)
    assert done.returncode == 0, done.stderr


def test_the_kernel_is_this_interpreter_whatever_kernelspecs_say(fresh):
    spec = fresh.folder / "share/kernels/python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    fresh.add("01_data", "import sys\nprint(sys.executable)")
    done = fresh.run("--only", "01_data", env=os.environ | {"JUPYTER_PATH": str(fresh.folder / "share")})
    assert done.returncode == 0, done.stderr
    assert sys.executable in (fresh.out / "executed/01_data.ipynb").read_text()


# --- variables --------------------------------------------------------------------------------------------------------

LEFT_BEHIND = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_CPU": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "TORCHELASTIC_RUN_ID": "1",
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "ROLE_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMI_SIZE": "2",
    "MPI_LOCALNRANKS": "2",
    "PYTHONIOENCODING": "ascii",
    "PYTHONSTARTUP": "/nowhere.py",
}
PRINTS = """
import os, sys
print("hash", hash("a word"), "optimize", sys.flags.optimize, "safe", sys.flags.safe_path, "utf8", sys.flags.utf8_mode)
for name in sorted(os.environ):
    print("variable", name)
"""


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_a_launchers_variable_is_dropped(name):
    found = surroundings.settled({name: LEFT_BEHIND[name], f"MY_{name}": "kept"})
    assert name not in found and f"MY_{name}" in found


def test_a_kernel_is_told_where_the_data_were_written_whatever_was_said_before(project):
    for name in NAMES[1:3]:
        project.add(name, "import os\nprint(os.environ['RUN_ALL_SERIES'])")
    done = project.run("--seeds", "1", "2", env=os.environ | {"RUN_ALL_SERIES": "/nowhere"})
    assert done.returncode == 0, done.stderr
    for stage in (*NAMES[1:3], f"seeds/2/{NAMES[2]}"):
        assert shown(project, stage).startswith(f"{project.out}\n")


def test_no_kernel_sees_such_a_variable(fresh):
    fresh.add("01_data", PRINTS)
    said = runs(fresh, **LEFT_BEHIND)
    seen = set(re.findall(r"^variable (\w+)$", said, re.M))
    assert {"PATH", "PYTHONHASHSEED"} <= seen and not seen & LEFT_BEHIND.keys()


@pytest.mark.parametrize(
    "variables", [{"PYTHONOPTIMIZE": "1"}, {"PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7"}], ids=str
)
def test_pythons_own_switches_reach_no_kernel(fresh, variables):
    fresh.add("01_data", PRINTS)
    plain = runs(fresh, "--force", PYTHONHASHSEED="1")
    assert "optimize 0 safe False utf8 1" in plain and runs(fresh, "--force", **variables) == plain


@pytest.mark.slow
def test_a_driver_without_docstrings_and_asserts_runs_them_all(fresh):
    python, *rest = fresh.command()
    done = subprocess.run([python, "-OO", *rest], capture_output=True, text=True)
    assert done.returncode == 0 and ran(done.stdout) == list(NAMES), done.stderr
    assert (
        "skip what is up to date"
        in subprocess.run([python, "-OO", rest[0], "-h"], capture_output=True, text=True).stdout
    )


KIT = "def prepare(dataset, company, cache, **asked):\n    return {'01_data': {'TRAIN_ROWS': 7}}\n"


@pytest.mark.parametrize("safe", ["", "1"], ids=["", "safe path"])
def test_the_notebooks_own_modules_and_the_drivers_come_before_pythonpath(fresh, safe):
    others = fresh.folder / "others"
    for name in ("driver", "mini", "hub", "helpers", "complaints"):
        (others / name).mkdir(parents=True)
        (others / name / "__init__.py").write_text(f"raise ImportError('the wrong {name}')")
    (others / "cluster.py").write_text("print('of the cluster')")
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(KIT)
    fresh.out = fresh.folder / "runs/mini"
    fresh.add("01_data", "import cluster")
    assert "of the cluster" in runs(fresh, "--mini", PYTHONPATH=str(others), PYTHONSAFEPATH=safe)


# --- GPUs -------------------------------------------------------------------------------------------------------------

TWO = "GPU-aaaa-1, NVIDIA H100\nGPU-bbbb-2, NVIDIA H100\n"


def with_gpus(folder: Path, listed: str, status: int = 0) -> str:
    """Return a PATH whose nvidia-smi lists these GPUs."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\nexit {status}\n")
    (folder / "bin/nvidia-smi").chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


VISIBLE = {
    "all": (None, ["0", "1"]),
    "none": ("", []),
    "none, as a number": ("-1", []),
    "the second": ("1", ["1"]),
    "turned round": ("1,0", ["1", "0"]),
    "up to what is not there": ("0,7,1", ["0"]),
    "by its name": ("GPU-bbbb-2", ["GPU-bbbb-2"]),
    "by the beginning of its name": ("GPU-bb", ["GPU-bb"]),
    "by no name": ("GPU-cc", []),
    "a part of one": ("MIG-1234", ["MIG-1234"]),
}


@posix
@pytest.mark.parametrize("visible, names", VISIBLE.values(), ids=VISIBLE)
def test_the_gpus_are_those_that_cuda_would_see(tmp_path, monkeypatch, visible, names):
    monkeypatch.setenv("PATH", with_gpus(tmp_path, TWO))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    surroundings.gpus.cache_clear()
    try:
        assert list(surroundings.gpus()) == names
        kinds = {"MIG" if name.startswith("MIG") else "NVIDIA H100" for name in names}
        assert records.device() == (kinds.pop() if kinds else "cpu")
    finally:
        surroundings.gpus.cache_clear()


def test_each_kernel_gets_the_gpu_with_the_fewest(monkeypatch):
    monkeypatch.setattr(surroundings, "gpus", lambda: dict.fromkeys(["0", "1", "2"], "NVIDIA H100"))
    shared, held = surroundings.Gpus(), []
    for _ in range(4):
        held.append(shared.one())
        held[-1].__enter__()
    assert shared.kernels == {"0": 2, "1": 1, "2": 1}
    held[1].__exit__(None, None, None)
    with shared.one() as given:
        assert given == {"CUDA_VISIBLE_DEVICES": "1"}
    assert shared.kernels == {"0": 2, "1": 0, "2": 1}


SEES = """
import os, time
from pathlib import Path
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"))
"""
MEETING = """
meeting = Path(OUT) if SEED == 1 else Path(OUT).parents[1]
(meeting / f"here {SEED}").touch()
while len(list(meeting.glob("here *"))) < 2:
    time.sleep(0.05)
"""


@pytest.mark.slow
@posix
def test_jobs_side_by_side_have_a_gpu_each_and_a_job_alone_the_first(project):
    for name in NAMES[:3]:
        project.add(name, SEES + (MEETING if name == NAMES[2] else ""))
    own = os.environ | {"PATH": with_gpus(project.folder, TWO)}
    own.pop("CUDA_VISIBLE_DEVICES", None)
    done = project.run("--seeds", "1", "2", "--jobs", "2", env=own)
    assert done.returncode == 0, done.stderr
    assert shown(project).startswith("sees 0\n") and shown(project, NAMES[1]).startswith("sees 0\n")
    assert {shown(project, stage)[:6] for stage in (NAMES[2], f"seeds/2/{NAMES[2]}")} == {"sees 0", "sees 1"}
    assert {project.manifest(stage)["provenance"]["device"] for stage in NAMES} == {"NVIDIA H100"}


@posix
def test_a_run_on_the_cpu_sees_no_gpu(fresh):
    parameters = nbformat.read(fresh.path("01_data"), 4).cells[1].source
    fresh.edit("01_data", f'DEVICE = "auto"\n{parameters}', cell=1)
    fresh.add("01_data", SEES)
    path = with_gpus(fresh.folder, TWO)
    assert "sees \n" in runs(fresh, "-p", "DEVICE", "cpu", PATH=path, CUDA_VISIBLE_DEVICES="1")
    assert "sees 1\n" in runs(fresh, PATH=path, CUDA_VISIBLE_DEVICES="1")


@posix
@pytest.mark.parametrize("visible", [None, "7"])
def test_without_a_gpu_the_variable_stays_as_it_is(fresh, visible, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    fresh.add("01_data", SEES)
    own = {"PATH": with_gpus(fresh.folder, "", 9)} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    assert f"sees {visible}\n" in runs(fresh, **own)


# --- home and checkout ------------------------------------------------------------------------------------------------

DRAWS = """
import os
import matplotlib.pyplot
print("matplotlib in", os.environ.get("MPLCONFIGDIR"))
"""
SCORES = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers.training import ComplaintScores
print(ComplaintScores(keep_in_memory=True, cache_dir=sys.argv[2]).compute(predictions=[1, 0], references=[1, 1]))
"""


def homeless(home: Path) -> dict[str, str]:
    """Return this process's variables with that home, and no other place for any program's own files."""
    elsewhere = re.compile(r"(HF|XDG|MPL|IPYTHON|JUPYTER|TRANSFORMERS)\w*")
    return {name: value for name, value in os.environ.items() if not elsewhere.fullmatch(name)} | {"HOME": str(home)}


@posix
@pytest.mark.parametrize("writable", [False, True])
def test_a_home_that_cannot_be_written_is_left_alone_and_no_page_speaks_of_it(fresh, writable):
    (fresh.folder / "home").mkdir() if writable else (fresh.folder / "home").touch()  # nothing can be made under a file
    fresh.add("01_data", DRAWS)
    done = fresh.run("--only", "01_data", env=homeless(fresh.folder / "home"))
    assert done.returncode == 0, done.stderr
    where = None if writable else fresh.out / "executed/.tmp/matplotlib"
    assert shown(fresh).startswith(f"matplotlib in {where}\nwrote")
    assert (fresh.out / "executed/01_data.log").read_text().startswith("matplotlib in ") and not done.stderr


@pytest.mark.slow
@posix
def test_the_scores_of_a_training_need_no_home(tmp_path):
    (tmp_path / "home").touch()
    command = [sys.executable, "-c", SCORES, ROOT / "notebooks", tmp_path / "training"]
    done = subprocess.run(command, capture_output=True, text=True, env=homeless(tmp_path / "home"))
    assert done.returncode == 0 and "'accuracy': 0.5" in done.stdout, done.stderr


@pytest.mark.slow
@posix
def test_a_checkout_that_is_read_only_runs_into_another_folder(fresh, tmp_path):
    (fresh.folder / "notebooks/.old.999999999.tmp").touch()  # what it would sweep
    done = subprocess.run(["mount", "--bind", fresh.folder, fresh.folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", fresh.folder], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (fresh.folder / "x").touch()
        fresh.out = tmp_path / "elsewhere"
        done = fresh.run()
        assert done.returncode == 0 and ran(done.stdout) == list(NAMES), done.stderr
    finally:
        subprocess.run(["umount", "-l", fresh.folder], check=True)


def test_list_makes_nothing(fresh):
    def tree():
        return sorted(path for path in fresh.folder.rglob("*") if "__pycache__" not in path.parts)

    before = tree()
    assert before and fresh.run("--list", "--seeds", "1", "2", "--controls").returncode == 0
    assert tree() == before


# --- output -----------------------------------------------------------------------------------------------------------

SIGNS = """
from pathlib import Path
print("ä … ≥ 50 %")
Path(OUT, "signs").write_text("ä … ≥", newline="")
print(Path(OUT, "signs").read_bytes().hex())
"""
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("variables", ENCODINGS.values(), ids=ENCODINGS)
def test_output_that_is_not_utf_8_stops_nothing(fresh, variables):
    fresh.out = fresh.folder / "runs/päth …"
    fresh.add("01_data", SIGNS)
    done = fresh.run("--only", "01_data", env=os.environ | variables, text=False)
    assert done.returncode == 0 and b"cell 2 of 5, Work" in done.stdout, done.stderr
    assert "ä … ≥ 50 %\n" + "ä … ≥".encode().hex() in shown(fresh)
    assert "ä … ≥ 50 %" in (fresh.out / "executed/01_data.log").read_text(encoding="utf-8")
    fresh.edit("01_data", "1 / 0")
    failed = fresh.run("--only", "01_data", env=os.environ | variables, text=False)
    assert failed.returncode == 1 and b"ZeroDivisionError" in failed.stderr and b"Traceback" not in failed.stderr


HEARD = """
import time
from pathlib import Path
while Path({said!r}).read_text(encoding="utf-8").count(" so far") < 3:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_in_a_file_a_long_cell_is_heard_of_now_and_then(fresh, jobs):
    path = fresh.folder / "driver/progress.py"
    path.write_text(path.read_text().replace("EVERY = 10.0", "EVERY = 0.2"))
    fresh.add("01_data", HEARD.format(said=str(fresh.folder / "driver.txt")))
    assert fresh.start("--only", "01_data", "--jobs", jobs, "--stage-limit", "1").wait() == 0
    lines = (fresh.folder / "driver.txt").read_text().splitlines()
    about = [line for line in lines if "cell 3 of 5, Work … " in line]
    assert len(about) >= 4 and max(map(len, lines)) < 120
    assert all(line.endswith(" so far") for line in about[:-1]) and re.search(r"… \d+\.\d s$", about[-1])
    assert all(line.startswith("  01_data: cell" if jobs == 2 else "  cell") for line in about)


def test_what_is_written_over_becomes_a_line_now_and_then_in_a_file(monkeypatch):
    written, clock = [], [0.0]
    monkeypatch.setattr(in_kernel.time, "monotonic", lambda: clock[0])
    lines = in_kernel.Lines(written.append)
    lines.write("plain ")
    assert "".join(written) == "plain "  # at once: it may be the last word
    lines.write("words\r\nbar:")
    for step in range(1000):
        clock[0] += 1 / 32
        assert lines.write(f"\r{step:3} of 1000  ") == len(f"\r{step:3} of 1000  ")
    lines.write("\nthe end\r")
    lines.write("one\rtwo")
    lines.end()
    text = "".join(written)
    assert text == "plain words\nbar:\n320 of 1000\n640 of 1000\n960 of 1000\n999 of 1000\nthe end\ntwo\n"


BAR = """
import sys
from tqdm.auto import tqdm
from driver.in_kernel import in_lines
in_lines(sys.stderr)
for _ in tqdm(range(2000), mininterval=0, miniters=1):
    pass
"""


def test_a_childs_progress_bar_is_a_short_line_in_a_file():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, cwd=ROOT)
    said = done.stderr.decode()
    assert "2000/2000" in said.splitlines()[-1] and len(said.splitlines()) < 20 and "\r" not in said
