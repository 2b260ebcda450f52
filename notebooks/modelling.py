"""The models of notebooks 03 to 06: how they are loaded, trained, scored and counted.

Each function stands first on the page that teaches it (fit and the DistilBERT loader in 03, the GPT-2 loader in 04), and here word for word.
"""

import copy
import gc
import hashlib
import importlib.metadata
import inspect
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset
from helpers import LABELS, MODEL_FILES, PACKAGES, hub_snapshot, place, score, sha256, write_whole
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

LAYERS = {  # the layers that each architecture's adapter expects to find
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}


def device_and_precision() -> tuple[torch.device, torch.dtype]:
    """Return where to compute and in what: bfloat16 where the hardware has it (CUDA from Ampere on, CPUs with AMX tiles),
    float16 on older CUDA, float32 on every other CPU, where it is the fastest."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16 if torch.cuda.is_bf16_supported(
            including_emulation=False
        ) else torch.float16
    return torch.device("cpu"), torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


def find_model(model: str, revision: str, architecture: str) -> str:
    """Return the folder of the checkpoint to load, a local one or a hub id's at the pinned revision, once it is checked.

    ValueError says what the folder lacks: a configuration, a tokenizer, weights, or the architecture with its layers.
    """
    folder = place(model)
    if not folder.is_dir():
        if "/" in model.strip("/").replace("/", "", 1) or model.startswith((".", "/", "~")):
            raise FileNotFoundError(f"MODEL {place(model)} is not a folder. Pass a checkpoint's folder: -p MODEL PATH.")
        folder = hub_snapshot(model, revision, "model", MODEL_FILES)
    if not (folder / "config.json").is_file():
        raise ValueError(f"MODEL {folder} has no config.json: it is not a checkpoint in the hub's layout.")
    found = AutoConfig.from_pretrained(folder).model_type
    if found != architecture:
        raise ValueError(
            f"MODEL {folder} is a {found!r} checkpoint; this notebook needs {architecture!r}, whose adapter sits on the "
            f"layers {', '.join(LAYERS[architecture])}. Pass such a folder: -p MODEL PATH."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"MODEL {folder} has no tokenizer.json: save the model's tokenizer into the same folder.")
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"MODEL {folder} has no weights in a .safetensors file. A pickle (pytorch_model.bin) may hold code and is never "
            "loaded: write the model anew with its save_pretrained, on a machine that may run it."
        )
    return str(folder)


def load_distilbert(checkpoint: str, revision: str, seed: int):
    """Return a pretrained DistilBERT with a new, seeded two-class head, its dropout in the frozen body switched off."""
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        revision=revision,
        use_safetensors=True,
        dtype=torch.float32,
        num_labels=2,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        dropout=0.0,
        attention_dropout=0.0,
    )


def load_gpt2_tokenizer(checkpoint: str, revision: str):
    """Return GPT-2's tokenizer with a pad token (the end-of-text token serves) and padding on the right."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, revision=revision)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_gpt2(checkpoint: str, revision: str, seed: int, pad_token_id: int | None, quantization_config=None):
    """Return a pretrained GPT-2 with a new, seeded two-class head; its body is in four bits if a config says so."""
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        revision=revision,
        use_safetensors=True,
        dtype=torch.float32,
        quantization_config=quantization_config,
        num_labels=2,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        pad_token_id=pad_token_id,
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )


def load_gpt2_in_4_bits(checkpoint: str, revision: str, seed: int, pad_token_id: int):
    """Return notebook 04's GPT-2 with the matrices of its blocks in NF4; the scores' precision is the training's."""
    _, precision = device_and_precision()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
        llm_int8_skip_modules=["score"],
    )
    model = load_gpt2(checkpoint, revision, seed, pad_token_id, quantization)
    assert model.is_loaded_in_4bit, "the body is not in four bits"
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    return model


def tokenise(table: pd.DataFrame, tokenizer, max_tokens: int) -> Dataset:
    """Return the texts as token ids cut at max_tokens, with their attention masks and labels, not yet padded."""
    tokens = tokenizer(table["text"].tolist(), truncation=True, max_length=max_tokens)
    return Dataset.from_dict({**tokens, "labels": table["label"].tolist()})


def training_arguments(
    folder: Path, learning_rate: float, epochs: int, batch_size: int, seed: int
) -> TrainingArguments:
    """Return every setting of a training; the folder holds one checkpoint an epoch while it runs."""
    _, precision = device_and_precision()
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=64,
        train_sampling_strategy="group_by_length",
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.06,  # below one it is the share of all steps
        optim="adamw_torch_fused",
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=precision == torch.bfloat16,
        fp16=precision == torch.float16,
        label_names=["labels"],
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def fit(model, tokenizer, train: Dataset, validation: Dataset, arguments: TrainingArguments) -> pd.DataFrame:
    """Train what is not frozen, leave the model at its best epoch by validation F1, and return the log by epoch.

    A training that was killed goes on after its last whole epoch.
    """
    model.save_pretrained = partial(
        model.save_pretrained, save_embedding_layers=False
    )  # or peft asks the hub about them
    trainer = Trainer(
        model,
        arguments,
        DataCollatorWithPadding(tokenizer),
        train,
        validation,
        compute_metrics=lambda output: score(output.label_ids, output.predictions.argmax(axis=1)),
    )
    return by_epoch(train_whole(trainer))


def by_epoch(log: list[dict]) -> pd.DataFrame:
    """Return the log of train_whole as one row an epoch: the losses, accuracy, F1, the seconds it took with its
    validation, in whichever run that was, and how many letters went through the model at a time."""
    rows = pd.DataFrame(log).groupby("epoch").first()
    columns = {"loss": "training loss", "eval_loss": "validation loss", "eval_accuracy": "accuracy", "eval_f1": "f1"}
    columns |= {"seconds": "seconds", "micro_batch": "micro-batch"}
    return rows[list(columns)].rename(columns=columns).dropna().astype({"micro-batch": int})


# --- a training that survives a kill and a small memory ---------------------------------------------------------------


def train_whole(trainer: Trainer) -> list[dict]:
    """Train to the end, leave the model at its best epoch, and return the Trainer's log.

    A training that was killed goes on after its last whole checkpoint; on a CPU it ends with the same weights. Where the
    GPU's memory runs out, fewer letters go through the model at a time and the gradients of more such passes are added
    up: each step still sees the same letters in the same order, so its gradient is the same but for rounding (and for
    dropout, whose draws depend on the batch).
    """
    page = inspect.getsource(inspect.currentframe().f_back)  # fit as it stands there, which may have been changed
    key = training_key(trainer, page)
    start = {name: w.detach().to("cpu", copy=True) for name, w in trainer.model.named_parameters() if w.requires_grad}
    micro_batch = trainer.args.per_device_train_batch_size
    trainer.add_callback(Sealing(key))
    while True:
        checkpoint = last_whole_checkpoint(Path(trainer.args.output_dir), key)
        if checkpoint:
            last = logged(checkpoint)["log_history"][-1]
            micro_batch = min(micro_batch, last["micro_batch"])
            print(f"Going on after epoch {last['epoch']:.0f}, whose checkpoint is whole.")
        else:
            trainer.model.load_state_dict(start, strict=False)
        if micro_batch < trainer.args.per_device_train_batch_size:
            trainer = with_micro_batch(trainer, micro_batch, Sealing(key))
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            return trainer.state.log_history
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if micro_batch == 1:
                raise torch.OutOfMemoryError(
                    f"Out of memory with one letter at a time ({error}). Cut the letters, -p MAX_TOKENS 256, or close what "
                    "else uses the memory."
                ) from error
        smaller = [n for n in range(1, micro_batch // 2 + 1) if micro_batch % n == 0]
        micro_batch = smaller[-1]  # half of it, if it is even
        print(f"Out of memory: going on with {micro_batch} letters at a time, and as many as before for each step.")
        gc.collect()  # what the failed pass held
        torch.cuda.empty_cache()


def with_micro_batch(trainer: Trainer, micro_batch: int, sealing: TrainerCallback) -> Trainer:
    """Return such a trainer of the same model with so many letters at a time, and as many as before for each step."""
    arguments = copy.copy(trainer.args)
    times = arguments.per_device_train_batch_size // micro_batch
    arguments.per_device_train_batch_size = micro_batch
    arguments.gradient_accumulation_steps *= times
    arguments.per_device_eval_batch_size = max(1, arguments.per_device_eval_batch_size // times)
    return type(trainer)(
        trainer.model,
        arguments,
        trainer.data_collator,
        trainer.train_dataset,
        trainer.eval_dataset,
        compute_metrics=trainer.compute_metrics,
        # these two models' own loss ignores how many letters a step has: the sum over the passes would be too large
        compute_loss_func=mean_loss,
        callbacks=[sealing],
    )


def mean_loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
    """Return the cross entropy summed over these letters, divided by the number of letters of the whole step."""
    total = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class Sealing(TrainerCallback):
    """Notes what each epoch took in the Trainer's log, and seals each checkpoint once it is whole on disk."""

    def __init__(self, key: str):
        self.key = key

    def on_train_begin(self, args, state, control, **_) -> None:
        self.since = time.perf_counter()

    def on_evaluate(self, args, state, control, **_) -> None:
        now = time.perf_counter()
        state.log_history[-1] |= {"seconds": now - self.since, "micro_batch": args.per_device_train_batch_size}
        self.since = now

    def on_save(self, args, state, control, **_) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        text = json.dumps(seal(checkpoint, self.key), indent=1)
        write_whole(checkpoint / "seal.json", lambda temporary: temporary.write_text(text))


def seal(checkpoint: Path, key: str) -> dict:
    """Return what a checkpoint's seal must say: the key of its training, and the hash of every file in it."""
    files = {path.name: sha256(path) for path in sorted(checkpoint.iterdir()) if path.name != "seal.json"}
    return {"key": key, "files": files}


def logged(checkpoint: Path) -> dict:
    """Return the Trainer's state in a checkpoint: its log, and which checkpoint was the best so far."""
    return json.loads((checkpoint / "trainer_state.json").read_text())


def last_whole_checkpoint(folder: Path, key: str) -> Path | None:
    """Return the newest checkpoint of the training with this key that is whole, as is the best one before it; or None.

    All that cannot be gone on from is removed. Only what has passed here is loaded: the optimiser's state and the random
    generators' are pickles, but pickles of our own, byte for byte as sealed, and read with torch's weights_only.
    """
    whole = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name)):
        try:
            sealed = json.loads((checkpoint / "seal.json").read_text()) == seal(checkpoint, key)
            if sealed and Path(logged(checkpoint)["best_model_checkpoint"] or "") in [*whole, checkpoint]:
                whole.append(checkpoint)
                continue
        except (OSError, ValueError):
            pass  # no seal, or none that can be read
        shutil.rmtree(checkpoint)
    return whole[-1] if whole else None


def training_key(trainer: Trainer, page: str) -> str:
    """Return one hash over all that a training's outcome depends on, all weights and token ids included."""
    model, digest = trainer.model, hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for tokens in (trainer.train_dataset, trainer.eval_dataset):
        digest.update(json.dumps(tokens.to_dict()).encode())
    for module in (sys.modules["helpers"], sys.modules[__name__]):
        digest.update(Path(module.__file__).read_bytes())
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    settings = [trainer.args.to_dict(), model.config.to_dict(), adapters, page, repr(trainer.data_collator)]
    settings += [sys.version, {package: importlib.metadata.version(package) for package in (*PACKAGES, "accelerate")}]
    on_cuda = torch.cuda.is_available()
    settings += [torch.cuda.get_device_name() if on_cuda else torch.backends.cpu.get_cpu_capability()]
    settings += [torch.get_num_threads()]
    plain = json.dumps(settings, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    digest.update(plain.encode())
    return digest.hexdigest()


def predict(model, tokenizer, texts, max_tokens, batch_size=64) -> np.ndarray:
    """Return each text's probability of class 1, shape (texts,); batches go from long to short, so little is padded."""
    device, precision = device_and_precision()
    model.to(device).eval()
    tokens = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    probabilities = np.empty(len(tokens))
    with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer.pad({"input_ids": [tokens[i] for i in chosen]}, return_tensors="pt").to(device)
            probabilities[chosen] = model(**batch).logits.float().softmax(dim=1)[:, 1].cpu()
    return probabilities


def count_parameters(model) -> pd.Series:
    """Return how many weights there are and how many are trained, adapter and head apart; 4-bit weights count in full.

    peft keeps an unused copy of a head that is trained, under `original_module`; it is left out.
    """
    counts = {"all": 0, "trained in the adapter": 0, "trained in the head": 0}
    for name, weight in model.named_parameters():
        if "original_module" in name:
            continue
        size = weight.quant_state.shape.numel() if getattr(weight, "quant_state", None) is not None else weight.numel()
        counts["all"] += size
        if weight.requires_grad:
            counts["trained in the adapter" if "lora_" in name else "trained in the head"] += size
    return pd.Series(counts)


def save_and_reload(model: PeftModel, fresh, folder: Path, checkpoints: Path) -> tuple[float, PeftModel]:
    """Save adapter and head into the folder, whole or not at all, and drop the training's checkpoints.

    Return the size on disk in MB and the adapter as it comes back from the folder onto the fresh base.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, save_embedding_layers=False)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    shutil.rmtree(checkpoints)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    return size, PeftModel.from_pretrained(fresh, folder)


def megabytes_by_part(model) -> pd.Series:
    """Return the size in MB of a GPT-2's embeddings, block matrices (their scales included), the blocks' rest, and head."""
    sizes = dict.fromkeys(["embeddings", "blocks: matrices", "norms and biases", "head"], 0)
    for name, weight in model.named_parameters():
        is_matrix = name.startswith("transformer.h.") and name.endswith("weight") and "ln_" not in name
        embedded = "embeddings" if ".wte." in name or ".wpe." in name else "norms and biases"
        part = "head" if name.startswith("score") else "blocks: matrices" if is_matrix else embedded
        sizes[part] += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            sizes[part] += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    return pd.Series(sizes) / 2**20
