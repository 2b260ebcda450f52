"""This series' side of the trainings: its own functions, with the adapters that its pages configure."""

import peft
from modelling import find_model, load_distilbert, load_gpt2, load_gpt2_in_4_bits, load_gpt2_tokenizer
from transformers import AutoTokenizer, set_seed

from benchmarks import pages


def load(kind: str, checkpoint: str, seed: int = 42):
    """Return the series' model with its adapter as the page configures it, and its tokenizer."""
    architecture = kind.partition("_")[0]
    checkpoint = find_model(checkpoint, "", architecture)
    if architecture == "distilbert":
        tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), load_distilbert(checkpoint, "main", seed)
    else:
        tokenizer = load_gpt2_tokenizer(checkpoint, "main")
        load_base = load_gpt2_in_4_bits if kind == "gpt2_qlora" else load_gpt2
        model = load_base(checkpoint, "main", seed, tokenizer.pad_token_id)
    if kind == "gpt2_qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    names = pages.values(kind)
    exec(next(source for source in pages.cells(pages.PAGES[kind]) if "config = LoraConfig(" in source), names)
    set_seed(seed)
    return peft.get_peft_model(model, names["config"]), tokenizer
