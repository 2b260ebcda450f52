"""The driver on toy notebooks: order, progress, parameters, what is skipped, what is refused, what is saved."""

import json
import os
import pty
import re
import shutil
import subprocess

import nbformat
import pytest
from toy import ALL, MAKES, NAMES, ran

from driver import publish, records
from driver.stages import CONTROLS

MINI = """
import json
from pathlib import Path


def prepare(dataset, company, cache, **asked):
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "asked.json").write_text(json.dumps([dataset and str(dataset), company]))
    return {"01_data": {"TRAIN_ROWS": 5, "DATASET": cache / "asked.json"}, "03_distilbert_lora": {"RANK": 2}}
"""


# --- the run ----------------------------------------------------------------------------------------------------------


def test_all_six_run_in_order_with_progress_times_and_the_table(finished):
    output = finished.first_output
    assert ran(output) == list(NAMES)
    assert re.search(r"cell 2 of 4, Work … \d+\.\d s\n", output)
    assert re.search(r"^toy +lora +1 +0\.570 \(0\.570 to 0\.570\) +0\.570 +0\.570 +0\.570$", output, re.M)
    assert "over seeds" not in output  # nothing would stand in that column
    assert re.search(r"^Time: 01_data \d\.\d s, 02_test_data \d\.\d s, .*appendix_use \d\.\d s$", output, re.M)
    assert f"Bar plot: {finished.out / 'plots/barplot_perfmetrics.png'}\n" in output
    assert output.rstrip().endswith(f"Pages: {finished.out / 'site/index.html'}")
    for name in NAMES:
        record = finished.manifest(name)
        assert set(record["made"]) == {*MAKES[name], f"executed/{name}.ipynb"}
        assert record["parameters"]["SEED"] == 42 and record["seconds"] > 0
        statuses = {
            c.metadata.papermill.status for c in nbformat.read(finished.out / f"executed/{name}.ipynb", 4).cells
        }
        assert statuses == {"completed"}


def test_what_a_page_leaves_to_its_end_is_done_when_its_kernel_leaves(fresh):
    fresh.add("01_data", "import atexit\natexit.register(Path(OUT, 'at_the_end').write_text, 'done')")
    assert fresh.run("--only", "01_data").returncode == 0
    assert (fresh.out / "at_the_end").read_text() == "done"


def test_a_second_run_skips_all_and_imports_nothing_that_takes_seconds(project):
    before = project.files()
    again = project.run(env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    imported = set(re.findall(r"^import time: .*\| +([\w.]+)$", again.stderr, re.M))
    assert again.returncode == 0 and "filelock" in imported
    assert not imported & {"papermill", "nbformat", "nbclient", "matplotlib", "pandas", "torch", "huggingface_hub"}
    assert again.stdout.count("up to date (") == len(NAMES) and re.search("^toy +lora", again.stdout, re.M)
    assert project.files() == before


def test_a_terminal_shows_one_line_that_updates(project):
    ours, theirs = pty.openpty()
    child = subprocess.Popen(project.command("--only", "06_comparing", "--force"), stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert child.wait() == 0
    first, _, rest = shown.decode().partition("\n")
    assert "\r\x1b[K06_comparing: cell 2 of 4, Work" in first and "\r\x1b[K06_comparing: cell 4 of 4, Files" in first
    assert re.search(r"\r\x1b\[K06_comparing +\d\.\d s", first) and "\x1b" not in rest


def test_only_from_and_force_choose_what_runs(project):
    assert ran(project.run("--only", "notebooks/02_test_data.ipynb", "--force").stdout) == ["02_test_data"]
    assert ran(project.run("--from", "05_gpt2_qlora", "--force").stdout) == list(NAMES[4:])


def test_only_wants_what_it_needs_to_be_whole(project):
    (project.out / "data/train.parquet").write_bytes(b"PAR1 damaged PAR1")
    refused = project.run("--only", "03_distilbert_lora")
    assert refused.returncode == 2 and "data/train.parquet is damaged" in refused.stderr
    assert f"python run_all.py --out {project.out} --only 01_data" in refused.stderr


def test_only_says_when_what_it_needs_was_made_from_something_else(project):
    assert project.run("--only", "01_data", "-p", "TRAIN_ROWS", "7").returncode == 0
    assert "01_data is taken as it was made, with another TRAIN_ROWS" in project.run("--only", "02_test_data").stdout


def test_list_shows_states_and_parameters_and_runs_nothing(project):
    before = project.files()
    states = dict(re.findall(r"^(\d\d_\w+) +(.*)", project.run("--list", "-p", "RANK", "4").stdout, re.M))
    assert states["01_data"] == states["02_test_data"] == "done"
    assert states["04_gpt2_lora"] == "stale, changed: RANK"
    assert states["06_comparing"].startswith("stale, runs again after 03_distilbert_lora")
    shutil.rmtree(project.out / "executed")
    nothing = project.run("--list", "-p", "RANK", "4").stdout
    assert nothing.count("missing, not finished yet") == len(NAMES) and "    RANK = 4\n" in nothing
    assert {**before, **project.files()} == before


def test_mini_gives_other_values_and_the_command_line_wins(fresh):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(MINI)
    done = fresh.run("--mini", "--only", "01_data", "-p", "COMPANY", "OTHER")
    assert done.returncode == 0 and re.search(r"^mini data and models … .*\d s$", done.stdout, re.M), done.stderr
    record = json.loads((fresh.folder / "runs/mini/executed/01_data.json").read_text())
    assert record["parameters"]["TRAIN_ROWS"] == 5
    assert record["parameters"]["DATASET"] == str(fresh.folder / "runs/cache/asked.json")
    assert json.loads((fresh.folder / "runs/cache/asked.json").read_text()) == [None, "OTHER"]
    again = fresh.run("--mini", "--only", "01_data", "-p", "TRAIN_ROWS", "6")
    record = json.loads((fresh.folder / "runs/mini/executed/01_data.json").read_text())
    assert again.returncode == 0 and record["parameters"]["TRAIN_ROWS"] == 6
    assert json.loads((fresh.folder / "runs/cache/asked.json").read_text()) == [None, "A BANK"]


REFUSING = "import os\n\n\ndef prepare(dataset, company, cache, **asked):\n    {}\n"


@pytest.mark.parametrize(
    "line, words",
    [
        ("raise ValueError('12 narratives are too few')", "12 narratives are too few"),
        ("os.kill(os.getpid(), 9)", "out of memory"),
    ],
    ids=["refused", "killed"],
)
def test_a_kit_that_cannot_be_made_ends_the_run_before_it_starts(fresh, line, words):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(REFUSING.format(line))
    refused = fresh.run("--mini")
    assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr
    assert not list((fresh.folder / "runs/mini").rglob("*.log"))


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_reach_the_notebook_in_their_type(project):
    (project.folder.parent / "here.csv").write_text("a,b\n")
    given = ["-p", "DATASET", "here.csv", "-p", "COMPANY", "2024", "-p", "TRAIN_ROWS", "20"]
    assert project.run("--only", "01_data", *given).returncode == 0
    values = json.loads((project.out / "results/01_data.json").read_text())["values"]
    assert values["DATASET"] == str(project.folder.parent / "here.csv")
    assert values["COMPANY"] == "2024" and values["TRAIN_ROWS"] == 20
    assert project.run("--only", "03_distilbert_lora", "-p", "DROPOUT", "0", "-p", "RANK", "4").returncode == 0
    values = json.loads((project.out / "results/03_distilbert_lora.json").read_text())["values"]
    assert repr(values["DROPOUT"]) == "0.0" and values["RANK"] == 4


@pytest.mark.parametrize(
    "text",
    [
        '"; open("pwned", "w") #',
        '\\"; open("pwned", "w") #',
        "__import__('os').system('touch pwned')",
        "$(touch pwned)",
    ],
)
def test_a_parameter_with_code_in_it_is_text(project, text):
    assert project.run("--only", "01_data", "-p", "COMPANY", text).returncode == 0
    assert json.loads((project.out / "results/01_data.json").read_text())["values"]["COMPANY"] == text
    assert not list(project.folder.rglob("pwned")) and not (project.folder.parent / "pwned").exists()


REFUSED = {
    "unknown notebook": (
        ["--only", "03_distilbert"],
        ["no notebook 03_distilbert", "Did you mean 03_distilbert_lora?"],
    ),
    "unknown first notebook": (["--from", "9"], ["no notebook 9", *NAMES]),
    "unknown parameter": (["-p", "RNAK", "4"], ["No parameter RNAK", "Did you mean RANK?", "TRAIN_ROWS"]),
    "parameter of another notebook": (["--only", "01_data", "-p", "RANK", "4"], ["No parameter RANK in 01_data"]),
    "word for a number": (["-p", "RANK", "four"], ["RANK takes a value of type int, like 8, not 'four'"]),
    "fraction for a count": (["-p", "RANK", "4.5"], ["RANK takes a value of type int"]),
    "truth for a count": (["-p", "RANK", "True"], ["RANK takes a value of type int"]),
    "list for a fraction": (["-p", "DROPOUT", "[0.1]"], ["DROPOUT takes a value of type float"]),
    "count out of range": (["-p", "RANK", "0"], ["RANK must lie between 1 and"]),
    "fraction out of range": (["-p", "DROPOUT", "1.5"], ["DROPOUT must lie between 0 and 1, not 1.5"]),
    "no number": (["-p", "LEARNING_RATE", "NaN"], ["LEARNING_RATE must lie between 0 and 1"]),
    "the output folder as parameter": (["-p", "OUT", "x"], ["use --out DIR"]),
    "the runs as parameter": (["-p", "RUNS", "[]"], ["use --seeds SEED … and --controls"]),
    "the same seed twice": (["--seeds", "1", "2", "1"], ["each seed must be another"]),
    "a seed out of range": (["--seeds", "-1"], ["SEED must lie between 0 and"]),
    "a sweep over words": (["--sweep", "COMPANY", "A"], ["takes a numeric parameter"]),
    "a sweep without values": (["--sweep", "RANK"], ["takes a numeric parameter and one or more values"]),
    "a sweep with one bad value": (["--sweep", "RANK", "2", "four"], ["RANK takes a value of type int"]),
    "a sweep over seeds": (["--sweep", "SEED", "1", "2"], ["use --seeds"]),
    "a sweep in part": (["--sweep", "RANK", "1", "--only", "01_data"], ["does not go with --only"]),
    "no job": (["--jobs", "0"], ["at least one notebook has to run"]),
    "data file not there": (["-p", "DATASET", "missing/file.csv"], ["DATASET missing/file.csv: there is no such file"]),
    "model folder not there": (["-p", "GPT2", "./missing"], ["GPT2 ./missing: there is no such file or folder"]),
    "output folder is a file": (["--out", "/dev/null/x"], ["/dev/null/x cannot be written", "--out DIR"]),
}


@pytest.mark.parametrize("arguments, words", REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_starts(fresh, arguments, words):
    refused = fresh.run(*arguments)
    assert refused.returncode == 2 and refused.stderr.startswith("run_all.py: ")
    assert not [word for word in words if word not in refused.stderr], refused.stderr
    assert not [path for path in fresh.out.rglob("*") if path.suffix in (".log", ".ipynb", ".json")]


BAD_CELLS = {
    "computed": ("RANK = 2 * 4", "may only hold lines NAME = plain value"),
    "not Python": ("RANK =", "may only hold lines NAME = plain value"),
    "no parameters cell": (None, "has 0 cells tagged `parameters`"),
}


@pytest.mark.parametrize("code, words", BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_parameters_cell_is_refused(fresh, code, words):
    page = nbformat.read(fresh.path("03_distilbert_lora"), 4)
    if code is None:
        page.cells[1].metadata = {}
    else:
        page.cells[1].source = code
    nbformat.write(page, fresh.path("03_distilbert_lora"))
    refused = fresh.run()
    assert refused.returncode == 2 and "03_distilbert_lora.ipynb" in refused.stderr and words in refused.stderr


def test_a_requirement_that_is_not_installed_is_named(fresh):
    with open(fresh.folder / "requirements.txt", "a") as file:
        file.write("no-such-package-at-all==1.0\n")
    refused = fresh.run()
    assert refused.returncode == 2 and "Not installed: no-such-package-at-all. Type: pip install -r" in refused.stderr


# --- seeds and controls -----------------------------------------------------------------------------------------------


def seeded(seed: int) -> list[str]:
    """Return the stages of a further seed."""
    return [f"seeds/{seed}/{name}" for name in NAMES[2:5]]


@pytest.mark.slow
def test_seeds_train_03_to_05_once_each_and_everything_else_once(project):
    done = project.run("--seeds", "7", "8")
    assert done.returncode == 0, done.stderr
    assert ran(done.stdout) == [*NAMES[2:5], *seeded(8), *NAMES[5:]]
    for name, seed in [*((n, 7) for n in NAMES[2:5]), *((n, 8) for n in seeded(8))]:
        record = project.manifest(name)
        assert record["parameters"]["SEED"] == seed and record["parameters"]["OUT"] == str(
            project.out / name.rpartition("/")[0]
        )
        assert (
            json.loads((project.out / next(f for f in record["made"] if "results/" in f)).read_text())["values"]["SEED"]
            == seed
        )
    assert project.manifest("06_comparing")["parameters"]["RUNS"] == [*NAMES[2:5], *seeded(8)]
    assert ran(project.run("--seeds", "7", "8").stdout) == []
    assert ran(project.run("--seeds", "7").stdout) == list(NAMES[5:])
    (project.out / "seeds/8/models/04_gpt2_lora/adapter.bin").write_bytes(b"damaged")
    assert ran(project.run("--seeds", "7", "8").stdout) == ["seeds/8/04_gpt2_lora", *NAMES[5:]]


@pytest.mark.slow
def test_controls_run_for_each_seed_where_they_are_asked_for_and_06_compares_them(project):
    controls = ["appendix_controls", "seeds/6/appendix_controls"]
    asked = project.run("--seeds", "5", "6", "--only", *CONTROLS, *NAMES[2:4])
    assert ran(asked.stdout) == [*NAMES[2:4], *CONTROLS, *seeded(6)[:2], controls[1]], asked.stderr
    for name, seed in (("appendix_rates", 5), (controls[0], 5), (controls[1], 6)):
        assert project.manifest(name)["parameters"]["SEED"] == seed
    assert {*seeded(6)[:2], "appendix_rates"} <= project.manifest(controls[1])["inputs"].keys()
    assert ran(project.run("--controls", "--seeds", "5", "6").stdout) == [NAMES[4], seeded(6)[2], *NAMES[5:]]
    runs = [*NAMES[2:5], controls[0], *seeded(6), controls[1]]
    assert project.manifest("06_comparing")["parameters"]["RUNS"] == runs
    assert set(runs) <= project.manifest("appendix_errors")["inputs"].keys()


@pytest.mark.slow
def test_controls_need_their_learning_rates_and_either_is_asked_for_by_name(project):
    refused = project.run("--only", "appendix_controls")
    assert refused.returncode == 2 and "appendix_rates is needed" in refused.stderr
    assert ran(project.run("--from", "appendix_rates", "-p", "RANKS", "[2]").stdout) == [
        *CONTROLS,
        *NAMES[5:],
    ]
    assert ran(project.run("--only", "appendix_controls", "--force").stdout) == ["appendix_controls"]
    assert ran(project.run("--controls", "-p", "RANKS", "[3]").stdout) == ["appendix_rates", "appendix_controls"]


# --- a sweep ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_runs_the_series_for_each_value_and_collects_the_scores(fresh):
    done = fresh.run("--sweep", "TRAIN_ROWS", "5", "5000")
    assert done.returncode == 0, done.stderr
    stages = [f"sweep/TRAIN_ROWS={value}/{name}" for value in (5, 5000) for name in NAMES]
    assert ran(done.stdout) == stages
    for value in (5, 5000):
        result = json.loads((fresh.out / f"sweep/TRAIN_ROWS={value}/results/01_data.json").read_text())
        assert result["values"]["TRAIN_ROWS"] == value
    found = json.loads((fresh.out / "results/sweep_TRAIN_ROWS.json").read_text())
    last = json.loads((fresh.out / "sweep/TRAIN_ROWS=5000/results/06_comparing.json").read_text())
    assert found["parameter"] == "TRAIN_ROWS" and set(found["accuracy"]) == {"tfidf_logreg", "toy"}
    assert found["accuracy"]["toy"]["value"] == [5, 5000]
    assert found["accuracy"]["toy"]["mean"][1] == last["table"][1]["accuracy"]
    assert (fresh.out / "plots/sweep_TRAIN_ROWS.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^TRAIN_ROWS +5 +5000$", done.stdout, re.M)
    again = fresh.run("--sweep", "TRAIN_ROWS", "5", "5000")
    assert ran(again.stdout) == [] and again.stdout.count("up to date") == 2 * len(NAMES)


MEETING = """
import time
from pathlib import Path
Path(OUT, "here").touch()
while len(list(Path(OUT).parent.glob("*/here"))) < 2:
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_the_values_of_a_sweep_run_side_by_side_and_are_listed(fresh):
    fresh.add("01_data", MEETING)
    met = fresh.run("--sweep", "TRAIN_ROWS", "5", "50", "--jobs", "2", "--stage-limit", "3")
    assert met.returncode == 0, met.stderr
    listed = fresh.run("--sweep", "TRAIN_ROWS", "5", "50", "70", "--list").stdout
    assert re.search(r"^sweep/TRAIN_ROWS=50/06_comparing done$", listed, re.M)
    assert "sweep/TRAIN_ROWS=70/01_data missing, not finished yet" in listed and "    TRAIN_ROWS = 70\n" in listed


def test_a_sweep_shows_the_spread_over_seeds():
    rows = {"mean": [0.9, 0.95], "sd": [0.02, 0.01], "seeds": [3, 3], "value": [10, 1000]}
    alone = rows | {"sd": [None, None], "seeds": [1, 1]}
    with_spread, without = (publish.draw_sweep("TRAIN_ROWS", {"toy": columns}) for columns in (rows, alone))
    assert with_spread.startswith(b"\x89PNG") and with_spread != without


# --- what runs again --------------------------------------------------------------------------------------------------


def edit_output(project):
    page = nbformat.read(project.path("03_distilbert_lora"), 4)
    page.cells[3].outputs = [nbformat.v4.new_output("stream", text="old")]
    page.cells[3].execution_count = 7
    nbformat.write(page, project.path("03_distilbert_lora"))


def touch_all(project):
    for path in [*project.folder.rglob("*.ipynb"), *project.folder.rglob("*.py"), *project.out.rglob("*.*")]:
        os.utime(path, (1, 1))


def flip_input_byte(project):
    """Change one byte of the data set, its size and time kept."""
    data = project.folder / "mine.csv"
    times = (data.stat().st_atime_ns, data.stat().st_mtime_ns)
    data.write_text("a,c\n")
    os.utime(data, ns=times)


def rewrite(path, before: str, after: str) -> None:
    """Replace the one place of a text in a file."""
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def reword(project):
    """Change comments, docstrings and layout of every module and of a notebook's code."""
    for path in project.folder.rglob("notebooks/**/*.py"):
        lines = re.sub(r'^"""', '"""In other words: ', path.read_text(), count=1)
        path.write_text(f"{lines}\n\n# more words\n")
    project.edit("02_test_data", "# a thought\n" + nbformat.read(project.path("02_test_data"), 4).cells[3].source)


def on_another_machine(project):
    """Make the next run find a GPU and another processor."""
    rewrite(project.folder / "driver/surroundings.py", 'if shutil.which("nvidia-smi") is None:', "if False:")
    rewrite(
        project.folder / "driver/surroundings.py",
        "subprocess.run(command, capture_output=True, text=True)",
        "subprocess.CompletedProcess(command, 0, 'GPU-1, NVIDIA H100\\n')",
    )
    rewrite(
        project.folder / "driver/records.py",
        "machine.cpu_name()",
        "'another'",
    )


def with_another_package(project):
    """Make the next run find another version of a package that changes numbers."""
    rewrite(
        project.folder / "driver/records.py",
        "parts | machine.versions()",
        "parts | machine.versions() | {'torch': '99'}",
    )


def say_more(project, name, **more):
    """Let a notebook's last cell add to its result file."""
    code = f"import json\nfile = Path(OUT) / 'results/{name}.json'\nsaid = json.loads(file.read_text()) | {more}\nfile.write_text(json.dumps(said))"
    project.edit(name, code, cell=6)


CHANGES = {
    "a code cell": (
        lambda p: p.edit(
            "04_gpt2_lora", "from pathlib import Path\nfrom toy_files import write\nvalues = row = about = {}"
        ),
        [],
        [*NAMES[3:6], "appendix_errors", "appendix_use"],  # which need the models; 06 writes the bytes that it wrote
    ),
    "what a run costs": (lambda p: say_more(p, "02_test_data", seconds=5, peak_memory_mb=6), [], NAMES[1:2]),
    "what a result says": (lambda p: say_more(p, "02_test_data", rows=5), [], NAMES[1:]),
    "a cell of the last": (lambda p: p.edit("06_comparing", "1", cell=6), [], NAMES[5:6]),
    "code that all import": (
        lambda p: (p.folder / "notebooks/helpers/files.py").open("a").write("MORE = 1\n"),
        [],
        NAMES,
    ),
    "code that none imports": (
        lambda p: (p.folder / "notebooks/helpers/scores.py").open("a").write("MORE = 1\n"),
        [],
        (),
    ),
    "comments, docstrings and layout": (reword, [], ()),
    "a parameter": (lambda p: None, ["-p", "TEST_ROWS", "3"], NAMES[1:]),
    "an input byte": (flip_input_byte, ["-p", "DATASET", "toy/mine.csv", "--only", *NAMES[:2]], NAMES[:2]),
    "a package that changes numbers": (with_another_package, [], NAMES),
    "a requirement": (lambda p: (p.folder / "requirements.txt").write_text("papermill==0\n"), [], ()),
    "another processor and a GPU": (on_another_machine, [], ()),
    "an output": (edit_output, [], ()),
    "a markdown cell": (lambda p: p.edit("02_test_data", "Other words.", cell=2), [], ()),
    "time stamps": (touch_all, [], ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("change, arguments, names", CHANGES.values(), ids=CHANGES)
def test_a_change_runs_exactly_what_depends_on_it(project, change, arguments, names):
    (project.folder / "mine.csv").write_text("a,b\n")
    if change is flip_input_byte:
        assert project.run(*arguments).returncode == 0
    change(project)
    again = project.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert ran(again.stdout) == list(names)
    assert ran(project.run(*arguments).stdout) == []


def test_of_what_an_older_version_finished_nothing_is_known_and_what_needs_it_runs_again():
    older = {"notebook": "01_data", "made": {"data/pool.parquet": "1"}}
    assert records.made_for_others(older) == records.made_for_others(None) == ""


def test_a_changed_module_runs_the_stages_that_import_it_also_by_way_of_another_and_is_named(project):
    helpers = project.folder / "notebooks/helpers"
    (helpers / "between.py").write_text("from helpers import inner\n")
    (helpers / "inner.py").write_text("VALUE = 1\n")
    for name in (NAMES[2], NAMES[4]):
        project.add(name, "from helpers.between import inner")
    assert ran(project.run().stdout) == [NAMES[2], NAMES[4]]  # which make what they made before
    (helpers / "inner.py").write_text("VALUE = 2\n")
    states = dict(re.findall(r"^(\d\d_\w+) +(.*)", project.run("--list").stdout, re.M))
    assert states[NAMES[2]] == states[NAMES[4]] == "stale, changed: helpers/inner.py" and states[NAMES[1]] == "done"


def test_where_a_stage_was_made_is_recorded_and_shown(project):
    found = project.manifest("01_data")["provenance"]
    assert found["versions"].keys() == {"Python", "papermill", "psutil"} and found["host"] and found["CPU"]
    assert f"made on {found['host']}, {found['CPU']}, {found['device']}" in project.run("--list").stdout


def test_a_hub_id_stays_one_beside_a_folder_of_that_name(project):
    (project.folder.parent / "gpt2").mkdir()
    assert ran(project.run().stdout) == []


def test_a_finished_folder_may_be_moved(project):
    project.out = project.out.rename(project.folder / "elsewhere")
    assert ran(project.run().stdout) == []


# --- a failure --------------------------------------------------------------------------------------------------------


def test_a_failing_cell_ends_the_run_and_names_notebook_cell_cause_and_fix(fresh):
    fresh.edit("02_test_data", "1 / 0")
    failed = fresh.run()
    assert failed.returncode == 1
    assert "FAILED 02_test_data, cell 2 of 4, Work\nZeroDivisionError: division by zero\n" in failed.stderr
    assert "02_test_data.failed.ipynb" in failed.stderr and f"--out {fresh.out}" in failed.stderr
    assert fresh.manifest("01_data") and not fresh.manifest("02_test_data")
    assert not list(fresh.out.glob("executed/03*"))
    kept = fresh.files()
    fresh.edit("02_test_data", "from toy_files import write\nfrom pathlib import Path\nvalues = row = about = {}")
    assert ran(fresh.run("--only", "01_data", "02_test_data").stdout) == ["02_test_data"]
    assert not (fresh.out / "executed/02_test_data.failed.ipynb").exists()
    kept = {name: content for name, content in kept.items() if not name.startswith("executed/02")}
    assert {name: fresh.files()[name] for name in kept} == kept and len(kept) == 7


# --- --save -----------------------------------------------------------------------------------------------------------

NOISY = """
import sys
from IPython.display import HTML, display
print("shown")
print("not shown", file=sys.stderr)
display(HTML("<progress value=1></progress>"))
display({"application/vnd.jupyter.widget-view+json": {"model_id": 1}, "text/plain": "bar"}, raw=True)
"""


SAVE = ("--save", "--controls", "--labels", "1")


@pytest.fixture(scope="module")
def all_ran(finished, tmp_path_factory):
    """The finished project, with the stages that --save wants and a series leaves out."""
    copy = finished.copy_to(tmp_path_factory.mktemp("all") / "toy")
    assert copy.run(*SAVE[1:]).returncode == 0
    return copy


@pytest.fixture
def savable(all_ran, tmp_path):
    """A copy of it, to change and save."""
    return all_ran.copy_to(tmp_path / "toy")


def test_save_writes_clean_outputs_and_everything_stays_up_to_date(savable):
    savable.add("03_distilbert_lora", NOISY.strip())
    before = {name: nbformat.read(savable.path(name), 4) for name in ALL}
    saved = savable.run(*SAVE)
    assert saved.returncode == 0 and "Saved 19 files: results/offline_demo.json, README.md" in saved.stdout, (
        saved.stderr
    )
    for name in ALL:
        page = nbformat.read(savable.path(name), 4)
        nbformat.validate(page)
        assert [cell.source for cell in page.cells] == [cell.source for cell in before[name].cells]
        assert page.metadata == before[name].metadata and page.cells[1].metadata.tags == ["parameters"]
        code = [cell for cell in page.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert "papermill" not in savable.path(name).read_text()
        assert savable.path(name).read_text() == nbformat.writes(page) + "\n"
    front_page = (savable.folder / "README.md").read_text()
    assert "(results/offline_demo.json)" in front_page and front_page.endswith("The end.")
    assert (savable.folder / "plots/barplot_perfmetrics.png").read_bytes().startswith(b"\x89PNG")
    page = nbformat.read(savable.path("03_distilbert_lora"), 4)
    assert [output.get("text") for output in page.cells[4].outputs] == ["shown\n"]
    assert page.cells[1].outputs[0].text == "The outputs come from a run with these.\n"
    assert page.cells[-1].outputs[0].execution_count == page.cells[-1].execution_count
    assert ran(savable.run(*SAVE).stdout) == []
    front = (savable.folder / "README.md").read_text()
    assert "**the offline demo**" in front and front.endswith("The end.")
    saved = json.loads((savable.folder / "results/offline_demo.json").read_text())
    made = {name: json.loads((savable.out / f"results/{name}.json").read_text()) for name in publish.SECTIONS}
    assert saved == {publish.SECTIONS[name]: content for name, content in made.items()}
    published = {name for figures in publish.FIGURES.values() for name in figures.values()}
    assert {path.name for path in (savable.folder / "plots").iterdir()} == published


def test_save_keeps_words_edited_after_the_run(savable):
    savable.edit("02_test_data", "Better words.", cell=2)
    assert savable.run(*SAVE).returncode == 0
    assert "Better words." in savable.path("02_test_data").read_text()


UNFIT = {
    "a machine path": ('print("in", OUT)', "shows the path"),
    "a home path": ('from pathlib import Path\nprint(Path.home() / "x")', "shows the path"),
    "too large": ('from IPython.display import HTML\nHTML("<p>" + "x" * 1_100_000)', "over 1,000,000"),
}


@pytest.mark.parametrize("code, words", UNFIT.values(), ids=UNFIT)
def test_save_refuses_what_is_unfit_to_share_and_writes_none(savable, code, words):
    savable.add("appendix_use", code)
    before = {name: savable.path(name).read_bytes() for name in ALL}
    refused = savable.run(*SAVE)
    assert refused.returncode == 2 and "appendix_use.ipynb" in refused.stderr and words in refused.stderr
    assert {name: savable.path(name).read_bytes() for name in ALL} == before


def test_save_wants_all_of_them(project):
    refused = project.run("--save", "--controls", "--only", "01_data")
    assert refused.returncode == 2 and "neither is among 01_data" in refused.stderr
    refused = project.run("--save")
    assert refused.returncode == 2 and "appendix_labels did not run. Add --controls --labels" in refused.stderr
    assert project.run("--mini", "--save").returncode == 2  # at once
