#!/usr/bin/env python3
"""How fast the series is, beside the recipe of the original study: python benchmarks/run.py

    training   letters a second and peak memory of the three trainings, padding, share of the machine's matrix rate
    quality    seconds of training until the accuracy on validation first reaches .94
    data       selecting the study's rows from 1,689,573: seconds, peak memory, disk
    scoring    letters a second against the text-classification pipeline, and on 200 to 20,000 letters
    run        the mini run by notebook and part, the driver's own share, and a run that has nothing to do

Without --models and --data the offline kit's miniatures and letters are used, and the table says so. Each figure is the
median of several repeats, both sides by turns and each in a process of its own; beside it stand the least and the
greatest. Quiet the machine first: its load at the start is in the file.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from benchmarks import measure, rows  # noqa: E402  (found only from the root)
from driver import kit  # noqa: E402

COMPANY = "BANK OF AMERICA, NATIONAL ASSOCIATION"
NAMES = {"distilbert": "distilbert-base-uncased", "gpt2": "gpt2", "quality": "distilbert-minilm"}


def parse() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", choices=rows.ALL, default=list(rows.ALL), help="which rows to measure (all)"
    )
    parser.add_argument("--models", type=Path, metavar="DIR", help=f"folder with {', '.join(NAMES.values())}")
    parser.add_argument("--data", type=Path, metavar="FILE", help="complaints as Parquet, in the raw schema")
    parser.add_argument("--repeats", type=int, default=3, help="of each figure (3)")
    parser.add_argument("--quality-repeats", type=int, default=1, help="of the time to quality, which takes long (1)")
    parser.add_argument("--limit", type=float, default=30, metavar="MINUTES", help="of a training to quality (30)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="texts in a batch of both sides' training (each recipe's own: 16; GPT-2 8 and 16)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument(
        "--show", type=Path, nargs="+", metavar="FILE", help="print such files as a Markdown page, and measure nothing"
    )
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> None:
    """Put into the options the data and models to use: those given, or the offline kit's, made unless they are there."""
    made = kit.values(ROOT, "", COMPANY)
    options.mini_models = {"distilbert": made["01_data"]["DISTILBERT"], "gpt2": made["01_data"]["GPT2"]}
    options.models = (
        {part: str(options.models.resolve() / name) for part, name in NAMES.items()}
        if options.models
        else options.mini_models | {"quality": options.mini_models["distilbert"]}
    )
    options.source = Path(made["01_data"]["DATASET"])  # the large file is made from it, whatever --data says
    options.data = str(options.data.resolve() if options.data else options.source)
    options.company, options.scratch = COMPANY, ROOT / "runs" / "benchmarks"


def main() -> None:
    """Measure the rows that are asked for, print the table, and write the file; or show what earlier runs wrote."""
    options = parse()
    if options.show:
        print(measure.page({path.stem: json.loads(path.read_text()) for path in sorted(options.show)}), end="")
        return
    machine = measure.machine()
    prepare(options)
    used = {"data": Path(options.data).stem, "models": {part: Path(path).name for part, path in options.models.items()}}
    scale = "mini" if any(name.startswith("mini-") for name in used["models"].values()) else "full size"
    print(f"\n{scale}: {measure.material(used)}")
    figures = []
    for row in options.rows:
        started = time.perf_counter()
        found = rows.ALL[row](options)
        print(f"\n{row}, {time.perf_counter() - started:.0f} s\n{measure.table(found)}\n", flush=True)
        figures += [{"row": row, **line} for line in found]
        settings = {name: getattr(options, name) for name in ("repeats", "quality_repeats", "batch_size", "limit")}
        result = {"machine": machine, "scale": scale, "used": used, "settings": settings, "figures": figures}
        if options.out:  # after each row: a row takes long
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
