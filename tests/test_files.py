"""Files: written whole or not at all, swept when their writer is dead; what code does and imports; what JSON can hold."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from driver import parameters
from helpers import files
from helpers.files import (
    TEMPORARY,
    code_of,
    imported_by,
    modules_of,
    plain,
    remove_leftovers,
    sha256,
    temporary_name,
    write_folder_whole,
    write_whole,
)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"


def in_new_python(code: str, *arguments) -> subprocess.CompletedProcess:
    """Run the code in a fresh interpreter that knows the project's packages; return the finished process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, NOTEBOOKS)))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- a file is written whole or not at all


CONTENTS = {
    "text": ("a line\r\nand café €", "a line\r\nand café €".encode()),
    "text with bytes that were no UTF-8": (os.fsdecode(b"caf\xe9"), b"caf\xe9"),
    "bytes": (b"\0\xff", b"\0\xff"),
    "a function": (lambda path: path.write_bytes(b"by itself"), b"by itself"),
    "nothing": ("", b""),
}


@pytest.mark.parametrize("content, expected", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_holds_what_was_given_to_the_byte_and_its_folder_is_made(tmp_path, content, expected):
    path = tmp_path / "new" / "deep" / "kept.txt"
    for _ in range(2):  # where nothing was, and over what was there
        write_whole(path, content)
        assert path.read_bytes() == expected and names_in(path.parent) == ["kept.txt"]


def fail_half_way(temporary: Path) -> None:
    """Write a little, as what a full disk stops."""
    temporary.write_text("ha")
    raise OSError("No space left on device")


TORN = {
    "a function on a full disk": (fail_half_way, OSError),
    "text that is no text": ("good until here \ud800", UnicodeEncodeError),
    "a function that writes nothing": (lambda path: None, FileNotFoundError),
}


@pytest.mark.parametrize("content, error", TORN.values(), ids=TORN.keys())
def test_a_torn_write_leaves_the_earlier_file_and_nothing_beside_it(tmp_path, content, error):
    path = tmp_path / "kept.txt"
    path.write_text("good")
    with pytest.raises(error):
        write_whole(path, content)
    assert path.read_text() == "good" and names_in(tmp_path) == ["kept.txt"]


@pytest.fixture
def on_disk(monkeypatch):
    """Return the list of what goes on, in order: ("fsync", bytes of the file), ("replace", where to)."""
    done, fsync, replace, rename = [], os.fsync, os.replace, os.rename

    def synced(number):
        done.append(("fsync", os.fstat(number).st_size))
        fsync(number)

    def moved(move):
        return lambda old, new: (done.append(("replace", Path(new).name)), move(old, new))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved(replace))
    monkeypatch.setattr(os, "rename", moved(rename))  # pathlib's own, too
    return done


def test_a_file_is_down_on_the_disk_before_it_takes_the_earlier_ones_place(tmp_path, on_disk):
    write_whole(tmp_path / "kept.txt", "twelve bytes")
    assert on_disk == [("fsync", 12), ("replace", "kept.txt")]


def test_each_file_of_a_folder_is_down_on_the_disk_before_the_folder_is_there(tmp_path, on_disk):
    def write(folder):
        (folder / "deep").mkdir()
        (folder / "weights").write_bytes(b"0" * 7)
        (folder / "deep" / "config").write_bytes(b"0" * 5)

    write_folder_whole(tmp_path / "model", write)
    assert sorted(on_disk[:-1]) == [("fsync", 5), ("fsync", 7)] and on_disk[-1] == ("replace", "model")


# --- and so is a folder


def write_model(text: str, then=None):
    """Return a function that writes a folder of two files, and calls `then` between them."""

    def write(folder):
        (folder / "weights").write_text(text)
        if then:
            then()
        (folder / "config").write_text(text)

    return write


def test_a_folder_takes_the_place_of_the_earlier_one_with_all_that_was_in_it(tmp_path):
    model = tmp_path / "deep" / "model"
    write_folder_whole(model, write_model("old"))
    (model / "of an earlier run").write_text("old")
    write_folder_whole(model, write_model("new"))
    assert names_in(model) == ["config", "weights"] and (model / "weights").read_text() == "new"
    assert names_in(model.parent) == ["model"]


def test_a_torn_write_leaves_the_earlier_folder_and_nothing_beside_it(tmp_path):
    write_folder_whole(tmp_path / "model", write_model("good"))

    def fail():
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder_whole(tmp_path / "model", write_model("half", fail))
    assert names_in(tmp_path) == ["model"] and (tmp_path / "model/weights").read_text() == "good"


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.files import write_folder_whole, write_whole

def write(path):
    if path.is_dir():
        path = path / "weights"
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

{function}(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize(
    "function, name",
    [
        ("write_folder_whole", "03_distilbert_lora"),
        ("write_folder_whole", "rank 1.5"),
        ("write_whole", "result.json"),
        ("write_whole", "no ending"),
    ],
)
def test_what_a_killed_writer_leaves_is_known_by_its_name_and_swept_and_the_earlier_kept(tmp_path, function, name):
    target = tmp_path / "models" / name
    getattr(files, function)(target, write_model("good") if "folder" in function else "good")
    before = sha256(target)
    done = in_new_python(KILLED.format(function=function), target)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = (path for path in target.parent.iterdir() if path != target)
    assert TEMPORARY.fullmatch(left.name) and sha256(target) == before
    remove_leftovers(tmp_path)
    assert names_in(target.parent) == [name] and sha256(target) == before


def test_what_a_living_process_writes_is_not_swept_nor_what_is_named_otherwise(tmp_path):
    kept = ["weights.tmp", ".tmp", ".model.tmp", ".model.99999999.tmp_of_mine", "model.99999999.tmp"]
    for name in kept:
        (tmp_path / name).write_text("mine")

    def look(folder):
        remove_leftovers(tmp_path)
        (folder / "still").write_text("here")

    write_folder_whole(tmp_path / "model", look)
    assert names_in(tmp_path) == sorted([*kept, "model"])


def test_the_sweep_goes_as_deep_as_it_is_told(tmp_path):
    left = [tmp_path / ".a.99999999.tmp", tmp_path / "deep" / ".a.99999999.tmp.json"]  # nobody has that number
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    remove_leftovers(tmp_path, "")
    assert [path.exists() for path in left] == [False, True]
    remove_leftovers(tmp_path)
    assert not left[1].exists()


def test_two_files_of_one_stem_have_two_temporary_names_that_end_as_they_do(tmp_path):
    names = [temporary_name(tmp_path / name) for name in ("a.json", "a.parquet", "a")]
    assert len(set(names)) == 3 and [name.suffix for name in names] == [".json", ".parquet", ".tmp"]
    assert all(TEMPORARY.fullmatch(name.name)[1] == str(os.getpid()) for name in names)


# --- what code does


CODE = '''
def mean(values, start=0):
    """Return the mean."""
    return sum(values, start) / len(values)
'''
SAME = {
    "a comment": CODE + "# what for",
    "another docstring": CODE.replace("Return the mean.", "The mean, or ZeroDivisionError."),
    "no docstring": CODE.replace('    """Return the mean."""\n', ""),
    "a docstring of the module": '"""Means."""\n' + CODE,
    "another layout": CODE.replace(
        "sum(values, start)", "(\n        sum(\n            values, start,\n        )\n    )"
    ),
    "other quotes": CODE.replace('"""', "'''"),
}
OTHER = {
    "another value": CODE.replace("start=0", "start=1"),
    "a number of another type": CODE.replace("start=0", "start=0.0"),
    "another name": CODE.replace("mean(", "average("),
    "another operation": CODE.replace("/", "//"),
    "a line more": CODE + "print(mean([1]))",
    "another order": CODE.replace("values, start=0", "start, values=0"),
    "a decorator": CODE.replace("def", "@cache\ndef"),
}


@pytest.mark.parametrize("changed", SAME.values(), ids=SAME.keys())
def test_what_code_does_is_the_same_whatever_is_said_about_it_and_however_it_is_laid_out(changed):
    assert changed != CODE and code_of(changed) == code_of(CODE)


@pytest.mark.parametrize("changed", OTHER.values(), ids=OTHER.keys())
def test_what_code_does_is_another_thing_when_the_code_is(changed):
    assert code_of(changed) != code_of(CODE)


def test_a_text_that_is_no_docstring_counts():
    assert code_of("x = 'a'") != code_of("x = 'b'")
    assert code_of("def f():\n    'doc'\n    return 'a'") != code_of("def f():\n    'doc'\n    return 'b'")
    assert code_of("class A:\n    'doc'\n    x = 1") == code_of("class A:\n    x = 1")


def test_a_cell_with_ipythons_magic_is_compared_as_it_is():
    cell = "%matplotlib inline\nimport helpers.scores"
    assert code_of(cell) == cell != code_of(cell + "  # a comment")


# --- what code imports


@pytest.mark.parametrize(
    "source, names",
    [
        ("import helpers.models", {"helpers", "helpers.models"}),
        ("import helpers.models as models, json", {"helpers", "helpers.models", "json"}),
        ("from helpers import scores", {"helpers", "helpers.scores"}),
        ("from helpers.scores import score", {"helpers", "helpers.scores", "helpers.scores.score"}),
        ("def later():\n    import helpers.hub", {"helpers", "helpers.hub"}),
        ("%pip install x\nimport helpers.hub\n!ls", {"helpers", "helpers.hub"}),
        ("%%time\nfrom helpers.hub import find_model", {"helpers", "helpers.hub", "helpers.hub.find_model"}),
        ("import_me = 'import helpers.hub'", set()),
    ],
)
def test_imports_are_seen_in_every_form_and_through_magic(source, names):
    assert imported_by(source) == names


@pytest.mark.parametrize(
    "source",
    [
        "%time\nfrom helpers.scores import (\n    score,\n)",
        "%time\nif True:\n    import helpers.scores",
        '%time\ntext = """\nfrom here to there\n"""\nimport helpers.scores',
    ],
    ids=["over several lines", "indented", "prose"],
)
def test_imports_under_magic_are_seen_however_they_are_laid_out(source):
    assert "helpers.scores" in imported_by(source)


@pytest.fixture
def package(tmp_path):
    """Return a folder with a package of four modules: one imports two, in a circle, and one stands alone."""
    (tmp_path / "kit").mkdir()
    texts = {
        "__init__": "",
        "pages": "from kit import scores\nimport kit.files",
        "scores": "import json\nfrom kit.files import place",
        "files": "import kit.pages",
        "alone": "import numpy",
    }
    for name, text in texts.items():
        (tmp_path / f"kit/{name}.py").write_text(text)
    return tmp_path


def test_modules_are_found_through_those_that_they_import_and_no_others(package):
    found = modules_of(["import os\nimport kit.pages"], package)
    assert list(found) == [f"kit/{name}.py" for name in ("__init__", "files", "pages", "scores")]
    assert found["kit/scores.py"] == (package / "kit/scores.py").read_text()
    assert list(modules_of(["%time\nfrom kit import alone"], package)) == ["kit/__init__.py", "kit/alone.py"]
    assert modules_of(["import numpy", "x ="], package) == modules_of([], package) == {}


def test_what_a_module_does_counts_for_all_that_reach_it_and_for_nobody_else(package):
    def found():
        texts = [modules_of([f"import kit.{name}"], package) for name in ("pages", "alone")]
        return [{name: code_of(text) for name, text in each.items()} for each in texts]

    pages, alone = found()
    module = package / "kit/scores.py"
    module.write_text(module.read_text() + "  # a comment")
    assert found() == [pages, alone]
    module.write_text(module.read_text() + "\nMORE = 1")
    assert found()[0] != pages and found()[1] == alone


def test_the_first_notebook_rests_on_no_code_that_trains():
    found = modules_of(parameters.code_cells(NOTEBOOKS / "01_data.ipynb"), NOTEBOOKS)
    assert {"helpers/complaints.py", "helpers/sources.py", "helpers/files.py", "helpers/notebook.py"} <= found.keys()
    assert not {"helpers/training.py", "helpers/models.py"} & found.keys()


def test_the_helpers_name_each_other_in_full_since_only_that_is_followed():
    modules = sorted((NOTEBOOKS / "helpers").glob("*.py"))
    nodes = [(path.name, node) for path in modules for node in ast.walk(ast.parse(path.read_text()))]
    assert len(modules) > 8
    assert not [name for name, node in nodes if isinstance(node, ast.ImportFrom) and node.level]


HEAVY = ("seaborn", "matplotlib", "pandas", "torch", "transformers", "sklearn")
LIGHT = {"helpers.hub": HEAVY, "helpers.sources": HEAVY, "helpers.machine": HEAVY}
LIGHT |= dict.fromkeys(["helpers.files", "run_all"], (*HEAVY, "pyarrow", "numpy", "huggingface_hub"))


@pytest.mark.parametrize("module, heavy", LIGHT.items(), ids=LIGHT)
def test_what_downloads_and_reads_starts_without_loading_what_draws_and_trains(module, heavy):
    done = in_new_python(f"import sys, {module}; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))", *heavy)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


# --- hashes, and what a result may hold


def test_a_folders_hash_follows_names_and_bytes_and_not_the_order_or_time_of_writing(tmp_path):
    for name, order in (("one", "ab"), ("other", "ba")):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in order:
            (tmp_path / name / "deep" / file).write_text(file)
    one, other = tmp_path / "one", tmp_path / "other"
    assert sha256(one) == sha256(other)
    (other / "deep/a").rename(other / "deep/c")
    assert sha256(one) != sha256(other)
    (other / "deep/c").rename(other / "a")
    assert sha256(one) != sha256(other)
    (other / "a").rename(other / "deep/a")
    assert sha256(one) == sha256(other)
    (other / "deep/a").write_text("b")
    assert sha256(one) != sha256(other)


def test_a_result_holds_what_json_can_hold():
    value = {1: np.float64(0.5), "none": float("nan"), "rows": (np.arange(2), [np.nan]), "text": "x"}
    assert plain(value) == {"1": 0.5, "none": None, "rows": [[0, 1], [None]], "text": "x"}
