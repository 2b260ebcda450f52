"""The baselines that a language model has to beat: words, frozen vectors, and GPT-2 asked without labels (taught in 02)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from helpers import check
from helpers.complaints import CARD, MORTGAGE, normalise
from helpers.machine import Computing
from helpers.models import in_batches, load_pretrained

KEYWORDS = {
    CARD: ("card", "cards", "prepaid", "visa", "rewards", "purchase", "merchant", "charge", "charges", "fraud"),
    MORTGAGE: ("mortgage", "loan", "escrow", "home", "house", "property", "foreclosure", "modification", "refinance"),
}

PROMPT = "\nThis complaint is about:"


def choose_keywords(texts: Sequence[str], labels: ArrayLike, classes: tuple[str, ...]) -> list[list[str]]:
    """Return the words that speak for class 0, and those for class 1.

    For mortgages and cards these are fixed lists. For other classes they are the ten
    words of each whose share of texts exceeds the other class's by most.
    """
    if set(classes) <= KEYWORDS.keys():
        return [list(KEYWORDS[name]) for name in classes]
    counter = CountVectorizer(preprocessor=normalise, binary=True, min_df=2)
    held = counter.fit_transform(texts)
    labels = np.asarray(labels)
    lead = np.asarray(held[labels == 1].mean(axis=0) - held[labels == 0].mean(axis=0)).ravel()
    order = np.argsort(lead, kind="stable")
    words = counter.get_feature_names_out()[order]
    return [words[lead[order] < 0][:10].tolist(), words[lead[order] > 0][:-11:-1].tolist()]


def keyword_rule(texts: Sequence[str], keywords: list[list[str]]) -> np.ndarray:
    """Return P(class 1): 1 where its words lead, ½ at equal counts, else 0."""
    words = [normalise(text).split() for text in texts]
    lead = [sum(w in keywords[1] for w in ws) - sum(w in keywords[0] for w in ws) for ws in words]
    return (np.sign(lead) + 1) / 2


def linear_model(texts: Sequence[str], labels: ArrayLike, ngrams: Sequence[int], c: float) -> Pipeline:
    """Return TF-IDF of n-grams with a logistic regression on top, fitted.

    The n-grams are of ngrams[0] to ngrams[1] words.
    """
    words = TfidfVectorizer(ngram_range=tuple(ngrams), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=c, max_iter=1000)).fit(texts, labels)


def first_best(scores: Mapping[Any, float]) -> Any:
    """Return what scores highest, the first of equals: list the cheapest first."""
    return max(scores, key=scores.__getitem__)


def mean_over_tokens(vectors: torch.Tensor, batch: BatchEncoding) -> torch.Tensor:
    """Return the mean of each text's vectors over its tokens, shape (texts, width)."""
    is_token = batch["attention_mask"].unsqueeze(2)  # 0 at padding
    return (vectors.double() * is_token).sum(dim=1) / is_token.sum(dim=1)


def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int,
    computing: Computing,
) -> np.ndarray:
    """Return each text's vector, the mean over its tokens, shape (texts, width)."""

    def mean(batch: BatchEncoding) -> torch.Tensor:
        return mean_over_tokens(model.base_model(**batch).last_hidden_state, batch)

    return in_batches(mean, model, tokenizer, texts, max_tokens, computing)


def embed_both(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int,
    computing: Computing,
) -> np.ndarray:
    """Return two vectors of each text, the mean over its tokens and that of its first token, shape (texts, 2, width)."""

    def both(batch: BatchEncoding) -> torch.Tensor:
        vectors = model.base_model(**batch).last_hidden_state
        return torch.stack([mean_over_tokens(vectors, batch), vectors[:, 0].double()], dim=1)

    return in_batches(both, model, tokenizer, texts, max_tokens, computing)


def fit_on_vectors(vectors: np.ndarray, labels: ArrayLike, c: float) -> dict[str, Any]:
    """Return a logistic regression on standardised vectors, as the numbers in it."""
    scaler = StandardScaler().fit(vectors)
    fitted = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(vectors), labels)
    numbers = {"mean": scaler.mean_, "scale": scaler.scale_, "coef": fitted.coef_[0]}
    return {"C": c, "intercept": fitted.intercept_[0], **numbers}


def embedding_probability(fitted: Mapping[str, Any], vectors: np.ndarray) -> np.ndarray:
    """Return P(class 1) of each vector by what fit_on_vectors has fitted."""
    standardised = (vectors - fitted["mean"]) / fitted["scale"]
    return expit(standardised @ fitted["coef"] + fitted["intercept"])


def name_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    name: str,
    max_tokens: int,
    computing: Computing,
) -> np.ndarray:
    """Return log P(name | text, prompt) - log P(name | prompt), shape (texts,)."""
    ids = tokenizer(" " + name)["input_ids"]  # as within a sentence, behind a space
    ending = [*tokenizer(PROMPT)["input_ids"], *ids]
    check(
        len(ending) < max_tokens,
        f"MAX_TOKENS {max_tokens}: the prompt and the name of the class {name!r} alone are {len(ending)} tokens",
    )

    def log_probability(batch: BatchEncoding) -> torch.Tensor:
        last = batch["attention_mask"].sum(dim=1, keepdim=True) - 1
        # the model predicts a token at the place before it
        places = last - torch.arange(len(ids), 0, -1, device=last.device)
        hidden = model.base_model(**batch).last_hidden_state
        hidden = hidden.take_along_dim(places.unsqueeze(2), dim=1)
        with torch.autocast(hidden.device.type, enabled=False):  # 16 bits are too coarse
            logits = model.lm_head(hidden.float()).double()
        return logits.log_softmax(dim=2)[:, range(len(ids)), ids].sum(dim=1)

    texts = [*texts, ""]
    found = in_batches(log_probability, model, tokenizer, texts, max_tokens, computing, ending)
    return found[:-1] - found[-1]


def zero_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    names: Sequence[str],
    max_tokens: int,
    computing: Computing,
) -> np.ndarray:
    """Return P(class 1) of each text by the names of both classes, shape (texts,)."""
    scores = [name_score(model, tokenizer, texts, name, max_tokens, computing) for name in names]
    return expit(scores[1] - scores[0])


def fitted_baselines(
    found: Mapping[str, Any], train: pd.DataFrame, names: Sequence[str], computing: Computing
) -> dict[str, Callable[[Sequence[str]], np.ndarray]]:
    """Return the baselines of notebook 02's result, the cheapest first, as functions from texts to P(class 1).

    The linear model is fitted again, as validation chose it; a pretrained model is loaded when its function is called.
    CheckFailed where these are not the baselines that 02 has scored.
    """
    share = train["label"].mean()
    linear = linear_model(train["text"], train["label"], found["tfidf"]["ngrams"], found["tfidf"]["C"])
    records = found["embeddings"]

    def on_vectors(model: str) -> Callable[[Sequence[str]], np.ndarray]:
        fitted = records[model]
        return lambda texts: embedding_probability(
            fitted, embed(*load_pretrained(fitted), texts, fitted["max_tokens"], computing)
        )

    made = {
        "majority": lambda texts: np.full(len(texts), share),
        "keyword": lambda texts: keyword_rule(texts, found["keywords"]),
        "tfidf_logreg": lambda texts: linear.predict_proba(texts)[:, 1],
        "distilbert_embedding": on_vectors("distilbert"),
        "gpt2_embedding": on_vectors("gpt2"),
        "gpt2_zeroshot": lambda texts: zero_shot(
            *load_pretrained(records["gpt2"]), texts, names, records["gpt2"]["max_tokens"], computing
        ),
    }
    scored = list(found["validation"])
    check(list(made) == scored, f"notebook 02 scored the baselines {scored}, and fitted_baselines has {list(made)}")
    return made
