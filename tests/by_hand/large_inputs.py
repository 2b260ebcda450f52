"""Large inputs, by hand: a zipped CSV of 1.7 million rows is read and selected, 300,000 texts are searched for near-duplicates.

    python tests/by_hand/large_inputs.py

takes some ten minutes and 2 GB of disk in a temporary folder, which it removes. Each half runs in a process of its own
and prints what it found, its seconds, and the most memory that it took, beside the goal.
"""

import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

ROWS, TEXTS = 1_700_000, 300_000
COMPANY = "BANK OF AMERICA, NATIONAL ASSOCIATION"
CLASSES = {"Mortgage": ["Mortgage"], "Card": ["Credit card or prepaid card", "Credit card", "Prepaid card"]}
PRODUCTS = ["Debt collection", "Credit reporting", "Student loan", "Mortgage", "Credit card", "Prepaid card"]
HEADER = ["Date received", "Product", "Consumer complaint narrative", "Company", "State", "Complaint ID"]
WORDS = [
    f"{head}{tail}"
    for head in ["ba", "co", "di", "fu", "ge", "ha", "ji", "ko", "lu", "me", "no", "pa"]
    for tail in range(1000)
]
WEIGHTS = [1 / (place + 10) for place in range(len(WORDS))]  # few words are common, as in a language
BOILERPLATE = [" ".join(random.Random(each).choices(WORDS, k=25)) for each in range(40)]  # stands in thousands of texts
TEMPLATES = [random.Random(each).choices(WORDS, k=180) for each in range(500)]  # letters handed out to be copied


def text(source: random.Random, words: list[str]) -> str:
    """Return a text of about 195 words out of the drawn words: a template with some changes, or sentences of its own."""
    if source.random() < 0.03:
        made = list(source.choice(TEMPLATES))
        for _ in range(source.randint(0, 40)):
            made[source.randrange(len(made))] = source.choice(words)
        return " ".join(made)
    start = source.randrange(len(words) - 1000)
    own = words[start : start + min(900, round(source.lognormvariate(5, 0.6)))]
    source.shuffle(own)
    return " ".join([*own, *source.sample(BOILERPLATE, source.choice([0, 1, 1, 2]))])


def write_rows(path: Path) -> None:
    """Write the zipped CSV, row after row."""
    source, words = random.Random(0), random.Random(1).choices(WORDS, WEIGHTS, k=1_000_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        with packed.open("complaints.csv", "w", force_zip64=True) as member:
            rows = csv.writer(io.TextIOWrapper(member, "utf-8", newline="", write_through=True))
            rows.writerow(HEADER)
            for number in range(ROWS):
                company = COMPANY if source.random() < 0.01 else f"BANK {source.randrange(5000)}"
                start = source.randrange(len(words) - 400)
                told = "" if source.random() < 0.1 else " ".join(words[start : start + source.randint(50, 350)])
                rows.writerow(["2021-01-01", source.choice(PRODUCTS), told, company, "CA", number])
        print(
            f"{path.name}: {ROWS:,} rows, {packed.getinfo('complaints.csv').file_size / 1e9:.2f} GB unpacked",
            flush=True,
        )


def select_rows(path: str) -> dict:
    """Return the rows left after each condition, as notebook 01 finds them."""
    from helpers.complaints import load_complaints, select

    found, left = select(load_complaints(path, "", "", company=COMPANY), COMPANY, CLASSES)
    return left | {"complaints": len(found)}


def find_near_duplicates(_: str) -> dict:
    """Return how many near-duplicates 300,000 texts have among themselves, and with the others those of a tenth."""
    from helpers.complaints import near_duplicates

    source, words = random.Random(0), random.Random(1).choices(WORDS, WEIGHTS, k=1_000_000)
    texts = [text(source, words) for _ in range(TEXTS)]
    found = {"words in the median text": sorted(len(each.split()) for each in texts[:1001])[500]}
    for name, known in (("pairs", None), ("pairs of known and new", TEXTS // 10)):
        started = time.perf_counter()
        found[name] = len(near_duplicates(texts[known:], known=known and texts[:known]))
        found[f"seconds for {name}"] = round(time.perf_counter() - started)
    return found


def in_child(function: str, path: Path, goal: str) -> None:
    """Run the function in a process of its own and print what it says."""
    subprocess.run([sys.executable, __file__, function, path], check=True)
    print(f"  goal: {goal}", flush=True)


def main() -> None:
    """Run both halves, or the one that a parent asks for."""
    if len(sys.argv) > 1:
        from helpers.machine import peak_memory_mb

        started = time.perf_counter()
        found = globals()[sys.argv[1]](sys.argv[2])
        cost = {"seconds": round(time.perf_counter() - started), "of them on the CPU": round(time.process_time())}
        cost["peak MB"] = peak_memory_mb()["host"]
        print(json.dumps(found | cost, indent=1), flush=True)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        if shutil.disk_usage(folder).free < 4e9:
            raise SystemExit(f"{folder} has less than 4 GB free; set TMPDIR to a folder that has them.")
        write_rows(folder / "complaints.csv.zip")
        in_child("select_rows", folder / "complaints.csv.zip", "under 700 MB")
        in_child("find_near_duplicates", folder, "under 600 seconds and 2,000 MB, the texts included")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
