#!/usr/bin/env python3
"""Classify a file of complaints with a trained model and say where each goes: python classify.py MODEL FILE --out routed.csv

MODEL is models/NAME of a run, or its merged/; FILE is any complaint file that the series reads, labelled or not. The output
has a row for each row of the file. A run that was killed goes on with the same command, and --cluster scores on many machines.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "notebooks"))  # for helpers

from driver import Refused
from helpers.sources import ID, NARRATIVE, PRODUCT


def parse() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Classify a file of complaints and say where each goes.")
    add = parser.add_argument
    add("model", type=Path, help="a folder models/NAME, or a merged checkpoint: python run_all.py --export NAME")
    add("file", type=Path, help="CSV, JSON, JSON lines or Parquet, zipped or not, or a folder of these")
    add("--out", type=Path, required=True, help="the file to write, .csv or .parquet")
    add("--at-least", type=float, default=0.95, help="the probability from which on no person has to look (.95)")
    add("--prior", type=float, default=0.5, help="the share of class 1 among your complaints, if it is not one half")
    add("--text-column", default=NARRATIVE, help=f"the column of the texts ({NARRATIVE})")
    add("--label-column", help=f"a column of known products, to count what is right ({PRODUCT}, if it is there)")
    add("--id-column", help=f"a column of ids ({ID}, if it is there; or else a row's place in the file, from 0)")
    add("--encoding", default="utf-8", help="of text without a byte-order mark (utf-8)")
    add("--base", default="", help="the folder of an adapter's base model, if it is not found by name")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    add("--cluster", metavar="ADDRESS", default="", help="score on this Ray cluster, or the one here: auto")
    options = parser.parse_args()
    if options.out.suffix not in (".csv", ".parquet"):
        parser.error(f"--out {options.out}: the name must end in .csv or .parquet")
    if not 0.5 <= options.at_least <= 1:
        parser.error(f"--at-least {options.at_least}: a probability from 0.5 to 1")
    if not 0 < options.prior < 1:
        parser.error(f"--prior {options.prior}: a share between 0 and 1")
    if options.file.resolve() in (options.out.resolve(), *options.out.resolve().parents):
        parser.error(f"--out {options.out} would be read as complaints: give a name outside {options.file}")
    return options


def main() -> int:
    """Run, and return the exit status: 0 done, 2 refused, 130 interrupted."""
    options = parse()
    try:
        from driver import routing  # which imports torch: seconds that a mistyped option need not take

        routing.run(options)
        return 0
    except (Refused, ValueError, OSError) as error:
        print(f"classify.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What is scored is kept, in parts; to go on, type the same command again.", file=sys.stderr
        )
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
