"""The rooms of run_all.py: parameters (what a notebook takes), records (what is whole on disk), kernel (one notebook's
run), in_kernel (what the kernel itself does differently), prefetch (what a full run needs of the hub), saving (clean
outputs back into the notebooks)."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "notebooks"))  # for helpers
sys.modules.setdefault("rfc3987_syntax", None)  # for nbformat's sake jsonschema would read its grammar for two seconds


class Refused(Exception):
    """The command cannot be carried out as given; its text says what is wrong and what to type instead."""
