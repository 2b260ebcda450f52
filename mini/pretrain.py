"""Two miniature models, a DistilBERT and a GPT-2, pretrained for real on narratives and saved in the layout of the hub.

Seconds of pretraining cannot teach language, so three things make them count. The embeddings start as latent semantic
vectors of the corpus (words that occur in the same texts lie close together; Deerwester et al. 1990). Each model learns
its own task, to fill in masked words or to continue a text. And beside it, the vector that will later answer, that of
[CLS] in DistilBERT and of the last token in GPT-2, learns to tell which words the text holds: nothing else would ever use it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import DistilBertConfig, DistilBertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.files import sha256, temporary_name

SPECIAL = {"distilbert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "gpt2": ["<|endoftext|>"]}
MASKED = 0.15  # share of DistilBERT's tokens that it must fill in
STEPS = 140  # on the embedded complaints more gain little; 1,500 real ones gain up to some thousands
PREDICTED = 0.25  # share of GPT-2's tokens that it must predict: all of them would cost three times as much


@dataclass(frozen=True)
class Recipe:
    """The size of a miniature model and of its pretraining."""

    vocabulary: int = 4000
    width: int = 192
    layers: int = 2
    heads: int = 4
    positions: int = 512
    tokens_per_step: int = 2048
    learning_rate: float = 3e-3
    spread: float = 0.02  # standard deviation of the weights at the start


RECIPES = {  # DistilBERT: a slower rate, or it unlearns its word vectors, and more whole words, on which its answer rests
    "distilbert": Recipe(vocabulary=8000, learning_rate=7e-4),
    "gpt2": Recipe(),
}


def build(kind: str, narratives: list[str], folder: Path, steps: int = STEPS, seed: int = 0) -> Path:
    """Pretrain the miniature model of that kind and return where it lies: in a folder of its own, named by its weights.

    The weights are stored in 16 bits. The folder appears only once it is whole.
    """
    temporary = temporary_name(folder / f"mini-{kind}")
    model, tokenizer = pretrain(kind, narratives, steps, seed)
    model.half().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    digest = sha256(temporary / "model.safetensors")[:8]
    made = folder / f"mini-{kind}-{digest}"
    if made.exists():  # another run was faster
        shutil.rmtree(temporary)
    else:
        temporary.rename(made)
    return made


def make_tokenizer(kind: str, narratives: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a tokenizer in the model's own style, trained on the narratives: uncased word pieces, or byte pairs."""
    special = {"special_tokens": SPECIAL[kind], "vocab_size": recipe.vocabulary, "show_progress": False}
    if kind == "distilbert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner = [
            f"##{character}" for character in characters(tokenizer, narratives)
        ]  # in a fixed order: else it follows a hash
        special["special_tokens"] = [*SPECIAL[kind], *inner]
        trainer = trainers.WordPieceTrainer(min_frequency=3, **special)
        names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL[kind]}
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special)
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), SPECIAL[kind][0])
    tokenizer.train_from_iterator(narratives, trainer)
    if kind == "distilbert":
        tokenizer = plain_copy(tokenizer)
        ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=recipe.positions, **names)


def characters(tokenizer: Tokenizer, narratives: list[str]) -> list[str]:
    """Return the characters of the normalised narratives, sorted."""
    normalised = "".join(tokenizer.normalizer.normalize_str(text) for text in narratives)
    return sorted(character for character in set(normalised) if not character.isspace())


def plain_copy(trained: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the same word pieces, none of them special: `##e` in a text is not the piece `##e`."""
    tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(with_added_tokens=True), unk_token="[UNK]"))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = trained.decoder
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    return tokenizer


def make_model(kind: str, vocabulary: int, recipe: Recipe) -> torch.nn.Module:
    """Return a model of the kind with random weights and its language-model head."""
    size = recipe.width
    spread = recipe.spread
    if kind == "distilbert":
        shape = {"dim": size, "n_layers": recipe.layers, "n_heads": recipe.heads, "hidden_dim": 2 * size}
        off = {"dropout": 0.0, "attention_dropout": 0.0}
        config = DistilBertConfig(
            vocab_size=vocabulary, max_position_embeddings=recipe.positions, initializer_range=spread, **shape, **off
        )
        return DistilBertForMaskedLM(config)
    shape = {"n_embd": size, "n_layer": recipe.layers, "n_head": recipe.heads, "n_inner": 2 * size}
    off = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    off["activation_function"] = "gelu_pytorch_tanh"  # GPT-2's own function, in one step instead of eight
    config = GPT2Config(vocab_size=vocabulary, n_positions=recipe.positions, initializer_range=spread, **shape, **off)
    return GPT2LMHeadModel(config)


def blocks(narratives: list[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> list[list[int]]:
    """Return the narratives as token ids, the long ones divided into blocks that fit the model's positions."""
    rows = tokenizer(narratives, truncation=True, max_length=recipe.positions, return_overflowing_tokens=True)
    return [ids for ids in rows["input_ids"] if len(ids) >= 16]


def word_weights(rows: list[list[int]], vocabulary: int, special: int) -> torch.Tensor:
    """Return how telling each token is, shape (vocabulary,): log inverse document frequency, 0 for special tokens."""
    counts = torch.zeros(vocabulary)
    for row in rows:
        counts[list(set(row))] += 1
    weights = torch.log(len(rows) / (counts + 1)).clamp(min=0)
    weights[:special] = 0
    return weights


def semantic_vectors(rows: list[list[int]], weights: torch.Tensor, width: int) -> torch.Tensor:
    """Return a vector for each token, shape (vocabulary, width), by a singular value decomposition of who occurs where."""
    table = torch.zeros(len(rows), len(weights))
    for i, row in enumerate(rows):
        table[i].index_add_(0, torch.tensor(row), torch.ones(len(row)))
    _, strengths, tokens = torch.svd_lowrank(F.normalize(torch.log1p(table) * weights, dim=1), q=width, niter=4)
    vectors = tokens * strengths
    return vectors / vectors.square().mean().sqrt()


def batches(
    rows: list[list[int]], steps: int, recipe: Recipe, random: np.random.Generator
) -> Iterator[list[list[int]]]:
    """Yield one batch a step: blocks of similar length, as many as the tokens of a step allow."""
    made = 0
    while made < steps:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + 16 * random.random())
        widths = [len(rows[i]) for i in order]
        starts = []
        start = 0
        while start < len(order):
            starts.append(start)
            start += max(
                1,
                recipe.tokens_per_step // widths[min(start + recipe.tokens_per_step // widths[start], len(order)) - 1],
            )
        for start, end in random.permutation(list(zip(starts, [*starts[1:], len(order)], strict=True)))[: steps - made]:
            yield [rows[i] for i in order[start:end]]
            made += 1


def losses(
    kind: str, model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the model's own loss plus that of the gist: which words does the text hold, asked of the vector that answers."""
    base = model.base_model
    special = len(SPECIAL[kind])
    if kind == "distilbert":
        hidden_from_view = (torch.rand(ids.shape) < MASKED) & (ids >= special)
        shown = torch.where(hidden_from_view, SPECIAL[kind].index("[MASK]"), ids)
        states = base(input_ids=shown, attention_mask=mask).last_hidden_state

        def guess(vectors: torch.Tensor) -> torch.Tensor:
            return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(vectors))))

        own = F.cross_entropy(guess(states[hidden_from_view]), ids[hidden_from_view])
        answering = states[:, 0]
    else:
        states = base(input_ids=ids, attention_mask=mask).last_hidden_state
        guess = model.lm_head
        continued = mask[:, 1:].bool() & (torch.rand(ids[:, 1:].shape) < PREDICTED)
        own = F.cross_entropy(guess(states[:, :-1][continued]), ids[:, 1:][continued])
        answering = states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
    held = torch.zeros(len(ids), len(weights)).scatter_(1, ids, 1.0) * weights
    gist = held / held.sum(dim=1, keepdim=True).clamp(min=1e-9)
    return own - (gist * F.log_softmax(guess(answering), dim=1)).sum(dim=1).mean()


def pretrain(
    kind: str, narratives: list[str], steps: int, seed: int
) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """Return a miniature model of the kind and its tokenizer, both learned from the narratives alone."""
    torch.manual_seed(seed)
    recipe = RECIPES[kind]
    tokenizer = make_tokenizer(kind, narratives, recipe)
    rows = blocks(narratives, tokenizer, recipe)
    model = make_model(kind, len(tokenizer), recipe)
    weights = word_weights(rows, len(tokenizer), len(SPECIAL[kind]))
    with torch.no_grad():
        model.get_input_embeddings().weight += recipe.spread * semantic_vectors(rows, weights, recipe.width)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    warm = 0.06 * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / warm, (steps - s) / (steps - warm)))
    given = batches(rows, steps, recipe, np.random.default_rng(seed))
    for batch in tqdm(given, total=steps, desc=f"pretraining mini-{kind}", unit="step"):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch], batch_first=True)
        lengths = torch.tensor([len(row) for row in batch])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        losses(kind, model, ids, mask, weights).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer
