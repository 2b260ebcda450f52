"""Full disks and damaged files: finished stages keep their bytes, and what is not whole is made again."""

import contextlib
import inspect
import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from toy import NAMES, finishes, keeps, notebook, statuses

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="signals, /proc and tmpfs as on Linux; Windows is not tested"
)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(fresh):
    """A toy project that has run, its output folder being a disk of two megabytes."""
    fresh.out.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", fresh.out], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        assert fresh.run("--only", "01_data", "02_test_data").returncode == 0
        yield fresh
    finally:
        subprocess.run(["umount", "-l", fresh.out], check=True)


def fill(folder: Path, pages: int = 0) -> None:
    """Fill the folder's disk but for so many pages of 4096 bytes."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - 4096 * pages)


@pytest.mark.slow
def test_a_disk_full_from_the_start(disk):
    before = disk.files()
    fill(disk.out)
    failed = disk.run()
    assert failed.returncode in (1, 2) and "No space left on device" in failed.stderr, failed.stderr
    (disk.out / "filler").unlink()
    keeps(disk, before, NAMES[:2])
    finishes(disk, NAMES[2:])


@pytest.mark.slow
def test_a_disk_that_fills_inside_a_cell(disk):
    before = disk.files()
    disk.add("03_distilbert_lora", "from pathlib import Path\nPath(OUT, 'large').write_bytes(b'x' * 4_000_000)")
    failed = disk.run()
    assert failed.returncode == 1 and "FAILED 03_distilbert_lora, cell 3 of 5, Work" in failed.stderr
    assert "No space left on device" in failed.stderr and "make room" in failed.stderr
    keeps(disk, before, NAMES[:2])
    disk.path("03_distilbert_lora").write_text(nbformat.writes(notebook("03_distilbert_lora")))
    (disk.out / "large").unlink()
    finishes(disk, NAMES[2:])


def fill_at_the_end(project, name: str, pages: int) -> None:
    """Make the notebook's last cell fill the disk but for so many pages."""
    code = f"import contextlib, os\nfrom pathlib import Path\n\n\n{inspect.getsource(fill)}\n\nfill(Path(OUT), {pages})"
    project.edit(name, code, cell=-1)


@pytest.mark.slow
def test_a_disk_that_fills_before_the_executed_notebook_is_saved_keeps_the_one_before(disk):
    before = disk.files()
    fill_at_the_end(disk, "02_test_data", 0)
    failed = disk.run("-p", "TEST_ROWS", "3")
    assert failed.returncode == 1 and "FAILED 02_test_data" in failed.stderr and "make room" in failed.stderr
    after = disk.files()
    assert all(
        after[f"executed/02_test_data.{end}"] == before[f"executed/02_test_data.{end}"] for end in ("ipynb", "json")
    )
    keeps(disk, before, NAMES[:1])
    (disk.out / "filler").unlink()
    disk.path("02_test_data").write_text(nbformat.writes(notebook("02_test_data")))
    finishes(disk, NAMES[1:])


@pytest.mark.slow
def test_a_disk_that_fills_between_any_two_files(disk):
    saved = []
    for pages in range(8):
        fill_at_the_end(disk, "03_distilbert_lora", pages)
        last = disk.run("--only", "03_distilbert_lora")
        (disk.out / "filler").unlink()
        saved.append(sum((disk.out / f"executed/03_distilbert_lora.{end}").exists() for end in ("ipynb", "json")))
        if saved[-1] == 2:  # finished; there may be no room for its page
            assert last.returncode == 0 or f"written to {disk.out / 'site'}: [Errno 28]" in last.stderr, last.stderr
            break
        assert "FAILED 03_distilbert_lora" in last.stderr and "No space left on device" in last.stderr
        (disk.out / "executed/03_distilbert_lora.ipynb").unlink(missing_ok=True)
    assert (
        saved[0] == 0 and 1 in saved and saved[-1] == 2
    )  # nothing; the executed notebook alone; that and the manifest


# --- damage -----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    """Cut the file's last byte off."""
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    """Flip one bit in the middle, size and times kept."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("hurt", [truncate, flip, Path.unlink], ids=["truncated", "one bit", "removed"])
@pytest.mark.parametrize("kind", ["models", "results", "plots", "executed"])
def test_damage_is_found_and_the_bytes_come_back(project, hurt, kind):
    before = project.files()
    (file,) = [f for f in project.manifest("03_distilbert_lora")["made"] if f.startswith(kind)]
    hurt(project.out / file)
    finishes(project, ("03_distilbert_lora",))
    after = project.files()
    assert all(after[f] == before[f] for f in after if not f.startswith("executed/03"))
    assert set(statuses(project.out / "executed/03_distilbert_lora.ipynb")) == {"completed"}


@pytest.mark.parametrize("change", [("{", ""), ("1", "2"), ("made", "mode"), ("SEED", "SEEK")], ids=str)
def test_a_manifest_that_is_not_whole_counts_for_nothing(project, change):
    path = project.out / "executed/06_comparing.json"
    path.write_text(path.read_text().replace(*change, 1))
    finishes(project, ("06_comparing",))
