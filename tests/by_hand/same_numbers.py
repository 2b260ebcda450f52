"""Do other CPUs compute the same under the pins of a mini run? Real training steps and baselines, here and emulated.

    python tests/by_hand/same_numbers.py Haswell Skylake-Client EPYC-Rome     # CPUs as qemu-x86_64 -cpu help names them
    python tests/by_hand/same_numbers.py --without-pins Haswell EPYC-Rome     # to see that the pins are needed

Each part (three trainings of one epoch on 16 invented complaints, their predictions, the linear model) becomes a hash.
An emulated CPU takes minutes. qemu emulates no AVX-512, so that a CPU that has it can only be tried on one.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]


def digest(*arrays) -> str:
    """Return a short hash of the arrays' bytes."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:12]


def texts():
    """Return 24 invented complaints with their labels, the first 16 to train on."""
    import pandas as pd

    from mini import writer

    rng, seen = random.Random(1), set()
    names = list(writer.STUDY_ROWS)
    rows = [(writer.complaint(writer.STUDY_COMPANY, names[i % 2], seen, rng), i % 2) for i in range(24)]
    return pd.DataFrame(rows, columns=["text", "label"])


def train(kind: str, rows) -> dict[str, str]:
    """Return the hashes of one epoch's weights and of the predictions of a miniature model with an adapter."""
    import peft

    import mini
    from helpers.machine import choose_computing
    from helpers.models import distilbert_adapter, gpt2_adapter, load_base, predict
    from helpers.training import fit, training_arguments

    architecture, four_bits = kind.partition("_")[0], kind == "gpt2_qlora"
    computing = choose_computing("cpu", "float32")
    record = {"model": architecture, "bits": 4 if four_bits else 32, "precision": "float32"}
    record |= {"checkpoint": str(mini.shipped_models()[architecture]), "revision": ""}
    model, tokenizer = load_base(record, ("no", "yes"), 42)
    if four_bits:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapter = distilbert_adapter(8, 16, 0.0) if kind == "distilbert_lora" else gpt2_adapter(8, 16, 0.0, record["bits"])
    model = peft.get_peft_model(model, adapter)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(Path(folder), 1e-3, 1, 4, 42, computing)
        fit(model, tokenizer, rows[:16], rows[16:], 512, arguments, computing)
    weights = [w.detach().numpy() for w in model.parameters() if w.requires_grad]
    return {
        f"{kind}, weights": digest(*weights),
        f"{kind}, predictions": digest(predict(model, tokenizer, rows["text"], 512, computing)),
    }


def here() -> None:
    """Print, as JSON on the last line, what this CPU is and the hash of each part."""
    import torch

    from helpers.baselines import linear_model
    from helpers.scores import intervals

    rows = texts()
    found = {"instructions": torch.backends.cpu.get_cpu_capability()}
    linear = linear_model(rows["text"], rows["label"], (1, 2), 10)
    found["linear model"] = digest(linear[-1].coef_, linear.predict_proba(rows["text"]))
    found["intervals"] = str(intervals(rows["label"], linear.predict(rows["text"]), 42))
    for kind in ("distilbert_lora", "gpt2_lora", "gpt2_qlora"):
        found |= train(kind, rows)
    print(json.dumps(found))


def main(pinned: bool, cpus: list[str]) -> None:
    """Run the parts here and on each emulated CPU, and print which hashes are equal to those of this machine."""
    from helpers import machine

    environment = os.environ | {"PYTHONHASHSEED": "0"} | (machine.PINS if pinned else {"OMP_NUM_THREADS": "2"})
    results = {}
    for cpu in ["", *cpus]:
        command = (["qemu-x86_64", "-cpu", cpu] if cpu else []) + [sys.executable, __file__, "--here"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{cpu or 'this machine'}: exit status {done.returncode}\n{done.stderr[-3000:]}")
        results[cpu or "this machine"] = json.loads(done.stdout.splitlines()[-1])
        print(cpu or "this machine", results[cpu or "this machine"], flush=True)
    first = results.pop("this machine")
    for cpu, found in results.items():
        differing = [part for part in first if found[part] != first[part]]
        print(f"{cpu}: " + ("all equal" if not differing else f"differs in {', '.join(differing)}"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--here"]:
        here()
    else:
        main("--without-pins" not in sys.argv, [word for word in sys.argv[1:] if word != "--without-pins"])
