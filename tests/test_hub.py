"""The full study over HTTP, unchanged, against a stand-in hub on localhost; and what happens when there is no hub."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
import stand_in_hub
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from stand_in_hub import COMPLAINTS, DISTILBERT, GPT2, REVISIONS, serving, write_repositories

from driver.stages import series
from helpers.complaints import load_complaints
from helpers.hub import check_hub, find_model

ROOT = Path(__file__).parents[1]
NAMES = [stage.name for stage in series([], controls=False)]
SHORT = {
    "TRAIN_ROWS": 60,
    "TEST_ROWS": 20,
    "MORE_ROWS": 20,
    "MAX_TOKENS": 64,
    "EPOCHS": 1,
}  # values only: the code is that of a full run
SHARDS = [f"has-text/train-{i:05d}-of-00003.parquet" for i in range(3)]
NOWHERE = "f" * 40
NOBODY = "http://127.0.0.1:9"  # where nothing listens
HOSTILE = "=cmd|'/c calc'!A1 <script>alert(1)</script> <img src=x onerror=alert(1)> $\\LaTeX$ **bold** "


def run_all(endpoint: str, folder: Path, *arguments, **variables: str) -> subprocess.CompletedProcess:
    """Run the driver with that hub and an empty cache into folder/out, under more variables; return the finished process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, ROOT / "run_all.py", "--out", folder / "out", *map(str, arguments)]
    own |= {"no_proxy": "127.0.0.1"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=own, timeout=600)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Return the folder of the three repositories, in which every letter begins with markup and a formula."""
    return write_repositories(tmp_path_factory.mktemp("hub"), HOSTILE)


@pytest.fixture
def hub(repositories, monkeypatch):
    """Return a running stand-in that this process, too, takes for the hub."""
    with serving(repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield hub


# --- the stand-in is as strict as the hub -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_stand_in_serves_the_pins_under_their_old_names(hub):
    api = HfApi(endpoint=hub.url)
    for name, kind in ((DISTILBERT, "model"), (GPT2, "model"), (COMPLAINTS, "dataset")):
        old = name if kind == "dataset" else name.rpartition("/")[2]
        info = api.repo_info(old, revision=REVISIONS[name], repo_type=kind)
        assert (info.id, info.sha) == (name, REVISIONS[name])
        assert len(api.list_repo_files(old, revision=REVISIONS[name], repo_type=kind)) >= 5


@pytest.mark.slow
def test_the_stand_in_refuses_other_names_revisions_and_files(hub, tmp_path):
    api = HfApi(endpoint=hub.url)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("gpt3", revision=REVISIONS[GPT2])
    for revision in (NOWHERE, REVISIONS[DISTILBERT]):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("gpt2", revision=revision)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("gpt2", "none.json", revision=REVISIONS[GPT2], cache_dir=tmp_path)


# --- the full path ----------------------------------------------------------------------------------------------------


@contextmanager
def black_hole():
    """Yield the address of a hub that takes every connection and never answers, and a function that counts callers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)

        def callers():
            taken = []
            with suppress(BlockingIOError):
                while True:
                    taken.append(listener.accept()[0])
            return len(taken)

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", callers


@pytest.fixture(scope="module")
def prefetched(repositories, tmp_path_factory):
    """Return the folder whose cache --prefetch has filled, all that it asked the hub for, and what it printed."""
    folder = tmp_path_factory.mktemp("full")
    with serving(repositories) as hub:
        done = run_all(hub.url, folder, "--prefetch")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (folder / "out").exists()
    return folder, hub.asked, done.stdout


@pytest.fixture(scope="module")
def full_run(prefetched):
    """Return the output folder of a full run with what was prefetched and no network, and what it printed."""
    folder, *_ = prefetched
    with black_hole() as (endpoint, callers):
        done = run_all(endpoint, folder, *(word for pair in SHORT.items() for word in ("-p", *pair)))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert callers() == 0
    return folder / "out", done.stdout


@pytest.fixture(scope="module")
def first_stage(repositories, tmp_path_factory):
    """Return all that the first notebook asks the hub for when nothing was prefetched."""
    folder = tmp_path_factory.mktemp("first")
    with serving(repositories) as hub:
        done = run_all(hub.url, folder, "--only", "01_data", "-p", "TRAIN_ROWS", 60)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return hub.asked


@pytest.fixture(params=["prefetched", "first_stage"])
def asked(request):
    """Return what was asked of the hub: by --prefetch, or by the first notebook without it."""
    made = request.getfixturevalue(request.param)
    return made[1] if request.param == "prefetched" else made


@pytest.mark.slow
def test_all_notebooks_run_and_the_results_name_the_hubs_data_and_models(full_run):
    out, printed = full_run
    results = {name: json.loads((out / f"results/{name}.json").read_text()) for name in NAMES}
    assert {name: result["mini"] for name, result in results.items()} == dict.fromkeys(NAMES, False)
    assert {result["data"] for result in results.values()} == {COMPLAINTS}
    both = ["distilbert-base-uncased", "gpt2"]
    assert [result["models"] for result in results.values()] == [
        both,
        both,
        both[:1],
        both[1:],
        both[1:],
        both,
        both,
        both,
        both[:1],
    ]
    assert results["01_data"]["parameters"]["REVISION"] == REVISIONS[COMPLAINTS]
    assert results["03_distilbert_lora"]["parameters"]["DISTILBERT_REVISION"] == REVISIONS[DISTILBERT]
    assert len(results["06_comparing"]["test"]) == 9 and str(out / "plots/barplot_perfmetrics.png") in printed


@pytest.mark.slow
def test_only_the_pinned_revisions_are_asked_for(asked):
    assert len(asked) > 25 and not [request for request in asked if request.route == "unknown"]
    assert {(a.name, a.revision) for a in asked} == set(REVISIONS.items())


@pytest.mark.slow
def test_each_file_is_fetched_once_and_weights_are_never_a_pickle(asked):
    fetched = Counter((a.name, a.path) for a in asked if (a.method, a.route, a.status) == ("GET", "file", 200))
    assert set(fetched.values()) == {1}
    heavy = {file for file in fetched if file[1].endswith((".parquet", ".safetensors", ".bin"))}
    weights = {(DISTILBERT, "model.safetensors"), (GPT2, "model.safetensors")}
    assert heavy == weights | {(COMPLAINTS, shard) for shard in SHARDS}
    assert not [request for request in asked if request.path.endswith(".bin")]


@pytest.mark.slow
def test_markup_and_formulas_in_letters_are_shown_as_they_are_and_rendered_nowhere(full_run):
    out, _ = full_run
    pages = [nbformat.read(out / f"executed/{name}.ipynb", 4) for name in NAMES]
    outputs = [output for page in pages for cell in page.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert printed.count("<script>alert(1)</script>") > 2 and "$\\LaTeX$" in printed  # plain text, which viewers escape
    rich = [text for output in outputs for kind, text in output.get("data", {}).items() if kind != "image/png"]
    assert rich and not [text for text in rich if "LaTeX" in text or "alert" in text or "=cmd" in text]


# --- offline (promise 19) ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prefetch_says_what_it_brought_and_brings_it_once(prefetched, repositories, tmp_path):
    folder, _, printed = prefetched
    for name in ("driver", "hub", "helpers"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the wrong {name}')")
    for name in ("distilbert-base-uncased", "gpt2", COMPLAINTS):
        assert printed.count(f"{name}: ") == 1
    assert "needs no network" in printed
    with serving(repositories) as hub:
        again = run_all(hub.url, folder, "--prefetch", PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1")
    assert again.returncode == 0 and hub.asked == [], again.stderr


@pytest.mark.slow
def test_prefetch_leaves_local_sources_alone_and_has_no_use_for_mini(repositories, tmp_path):
    models = repositories / "models"
    local = [
        "-p",
        "DATASET",
        repositories / "complaints.parquet",
        "-p",
        "DISTILBERT",
        models / DISTILBERT / REVISIONS[DISTILBERT],
    ]
    local += ["--only", "01_data", "-p", "GPT2", models / GPT2 / REVISIONS[GPT2]]
    with black_hole() as (endpoint, callers):
        done = run_all(endpoint, tmp_path, "--prefetch", *local)
        assert done.returncode == 0, done.stderr
        assert callers() == 0
        mini = run_all(endpoint, tmp_path, "--prefetch", "--mini")
    assert mini.returncode == 2 and "--mini makes its own" in mini.stderr


@pytest.mark.slow
def test_of_a_cache_with_a_hole_nothing_is_taken_for_whole_and_only_the_hole_is_filled(
    prefetched, repositories, tmp_path
):
    shutil.copytree(prefetched[0] / "cache", tmp_path / "cache", symlinks=True)
    (hole,) = (tmp_path / "cache").glob(f"hub/datasets--*/snapshots/*/{SHARDS[1]}")
    hole.resolve().unlink()
    hole.unlink()
    (gpt2,) = (tmp_path / "cache/hub").glob("models--gpt2")
    shutil.rmtree(gpt2 / "trees")  # as in a cache that another program has filled, with less
    next(gpt2.glob("snapshots/*/tokenizer_config.json")).unlink()
    with black_hole() as (endpoint, _):
        silent = run_all(endpoint, tmp_path, "--prefetch")
    assert silent.returncode == 2
    assert COMPLAINTS in silent.stderr and "no answer within 5 s" in silent.stderr
    with serving(repositories) as hub:
        mended = run_all(hub.url, tmp_path, "--prefetch")
    assert mended.returncode == 0 and {a.path for a in hub.asked if a.route == "file"} == {
        SHARDS[1],
        "tokenizer_config.json",
    }


SNAPSHOT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from helpers import hub
try:
    if sys.argv[3]:
        print(hub.hub_snapshot(sys.argv[3], sys.argv[2], "dataset", [hub.data_pattern("has-text")]))
    else:
        print(hub.find_model("gpt2", sys.argv[2], "gpt2"))
except ConnectionError as error:
    print(error)
"""


def snapshot(endpoint: str, cache: Path, data: str = "", **variables: str) -> str:
    """Return the folder of the hub's snapshot, or the text of the error, in a process of its own: GPT-2's, or the data's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "no_proxy": "127.0.0.1"} | variables
    command = [sys.executable, "-c", SNAPSHOT, ROOT / "notebooks", REVISIONS[data or GPT2], data]
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def other_cache(repositories, tmp_path):
    """Return a cache that transformers and the hub's library have filled, file by file, with what they needed."""
    files = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    with serving(repositories) as hub:
        where = {"cache_dir": tmp_path / "hub", "endpoint": hub.url}
        for name in files:
            hf_hub_download("gpt2", name, revision=REVISIONS[GPT2], **where)
        for name in SHARDS:
            hf_hub_download(COMPLAINTS, name, revision=REVISIONS[COMPLAINTS], repo_type="dataset", **where)
    assert not list(tmp_path.rglob("trees"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("data", ["", COMPLAINTS], ids=["model", "data"])
@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["", "offline"])
def test_a_cache_that_another_program_filled_is_taken_for_what_it_holds(other_cache, data, variables):
    with black_hole() as (endpoint, callers):
        assert Path(snapshot(endpoint, other_cache, data, **variables)).name == REVISIONS[data or GPT2]
        assert callers() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "data, hole", [("", "model.safetensors"), ("", "tokenizer.json"), (COMPLAINTS, SHARDS[2])], ids=str
)
def test_its_hole_is_filled_by_the_hub_and_named_where_the_hub_must_not_be_asked(other_cache, repositories, data, hole):
    (gone,) = (other_cache / "hub").glob(f"{'datasets' if data else 'models'}--*/snapshots/*/{hole}")
    gone.unlink()
    offline = snapshot(NOBODY, other_cache, data, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline and f"lacks {hole}:" in offline
    assert f"-p {'DATASET' if data else 'GPT2'} path/to/" in offline
    with serving(repositories) as hub:
        assert (Path(snapshot(hub.url, other_cache, data)) / hole).is_file()
    assert hole in {asked.path for asked in hub.asked if asked.route == "file"}


@pytest.mark.slow
def test_weights_in_shards_are_whole_when_all_that_the_index_names_are_there(other_cache):
    (folder,) = (other_cache / "hub").glob("models--gpt2/snapshots/*")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert f"lacks {names['b']}:" in snapshot(NOBODY, other_cache, HF_HUB_OFFLINE="1")
    (folder / names["b"]).write_bytes(b"")
    assert snapshot(NOBODY, other_cache, HF_HUB_OFFLINE="1") == str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("saved", [False, True], ids=["variable", "file"])
def test_a_token_that_the_hub_refuses_is_named_with_the_fix_and_a_good_one_is_used(repositories, tmp_path, saved):
    (tmp_path / "token").write_text("hf_expired")
    with serving(repositories) as hub:
        bad = snapshot(hub.url, tmp_path, **({} if saved else {"HF_TOKEN": "hf_expired"}))
        good = snapshot(hub.url, tmp_path, HF_TOKEN="hf_good")
    assert "401" in bad and "token" in bad and "wrong or expired" in bad
    assert (
        (f"saved in {tmp_path / 'token'}" in bad and "`hf auth logout`" in bad) if saved else "`unset HF_TOKEN`" in bad
    )
    assert Path(good).name == REVISIONS[GPT2]


STALLED = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from helpers import hub
hub.HUB_SILENCE = 2
started = time.monotonic()
try:
    hub.hub_snapshot("gpt2", sys.argv[2], "model", hub.MODEL_FILES, "GPT2")
except ConnectionError as error:
    print(error)
print(time.monotonic() - started, flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["tree", "file"])
def test_a_download_that_stalls_after_the_hub_has_answered_is_an_error_too(repositories, tmp_path, monkeypatch, silent):
    answer, patience = stand_in_hub.answer, threading.Event()

    def stalling(route, *rest):
        return patience.wait(60) and None if route == silent else answer(route, *rest)

    monkeypatch.setattr(stand_in_hub, "answer", stalling)
    with serving(repositories) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", STALLED, ROOT / "notebooks", REVISIONS[GPT2]]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        patience.set()
    assert "nothing came for 2 s" in done.stdout and "--mini" in done.stdout, done.stderr
    assert 2 < float(done.stdout.split()[-1]) < 60  # the hub's library itself waits for many minutes


# --- no hub, or not the one that is asked for -------------------------------------------------------------------------


def test_a_hub_that_does_not_answer_is_named_with_both_ways_out(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    with pytest.raises(ConnectionError, match=r"some/data.*--mini.*-p DATASET"):
        check_hub("some/data", "abc", "dataset")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_without_the_hub_the_run_ends_soon_with_the_cause_and_both_ways_out(kind, tmp_path):
    with black_hole() as (endpoint, callers):
        silent = kind == "is silent"
        done = run_all(endpoint if silent else NOBODY, tmp_path)
        assert callers() == silent  # asked once: the hub's library would ask again and again, for minutes
    assert done.returncode == 1
    cause = "no answer within 5 s" if silent else "Connection refused"
    for words in ("FAILED 01_data, cell", COMPLAINTS, cause, "python run_all.py --mini", "-p DATASET path/to/"):
        assert words in done.stderr
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert left == {"01_data.log", "01_data.failed.ipynb"}


def test_a_hub_of_many_dead_addresses_takes_no_longer(monkeypatch):
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill its queue: whoever connects next waits for ever
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address] * 8)
        tried, connect = [], socket.socket.connect
        monkeypatch.setattr(socket.socket, "connect", lambda *given: tried.append(given) or connect(*given))
        monkeypatch.setattr("helpers.hub.HUB_SECONDS", 1)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        with pytest.raises(ConnectionError, match=r"no answer within 1 s.*--mini.*-p GPT2 path/to/folder"):
            check_hub("gpt2", REVISIONS[GPT2], "model", "GPT2")
        assert len(tried) <= 1  # of eight addresses, each of which takes minutes to be given up


@pytest.mark.slow
def test_a_revision_that_the_hub_does_not_have_is_named(hub):
    with pytest.raises(ConnectionError, match=f"{COMPLAINTS} at {NOWHERE} .*404.*-p DATASET path"):
        next(load_complaints(COMPLAINTS, "has-text", NOWHERE))
    with pytest.raises(ConnectionError, match=f"gpt2 at {NOWHERE} .*404.*-p GPT2 path"):
        find_model("gpt2", NOWHERE, "gpt2")
