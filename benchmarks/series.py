"""This series' side of the trainings: its own functions, with the adapters that its pages configure."""

import peft
from transformers import set_seed

from benchmarks import pages
from helpers.machine import choose_computing
from helpers.models import load_base


def load(kind: str, checkpoint: str, seed: int = 42):
    """Return the series' model with its adapter as the page configures it, and its tokenizer."""
    four_bits = kind == "gpt2_qlora"
    record = {
        "architecture": kind.partition("_")[0],
        "kind": kind.rpartition("_")[2],
        "checkpoint": checkpoint,
        "revision": "",
    }
    record["precision"] = choose_computing("auto", "auto").precision_name
    model, tokenizer = load_base(record, ("0", "1"), seed)
    if four_bits:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    names = pages.values(kind)
    exec(next(source for source in pages.cells(pages.PAGES[kind]) if "config = LoraConfig(" in source), names)
    set_seed(seed)
    return peft.get_peft_model(model, names["config"]), tokenizer
