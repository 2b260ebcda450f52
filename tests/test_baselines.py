"""The baselines on toy checkpoints: each by hand, by scikit-learn, and once more from what a result file holds of it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy_models import CARD, CPU, LABELS, MORTGAGE, some_letters, tiny_distilbert, tiny_gpt2

from helpers import CheckFailed
from helpers.baselines import (
    PROMPT,
    choose_keywords,
    embed,
    embedding_probability,
    first_best,
    fit_on_vectors,
    fitted_baselines,
    keyword_rule,
    linear_model,
    name_score,
    zero_shot,
)
from helpers.files import plain
from helpers.machine import Computing
from helpers.models import load_pretrained

TEXTS = [CARD, f"{MORTGAGE} " * 9, "a fee was charged", f"{CARD} {MORTGAGE}"]  # of many lengths: most are padded


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Return the record of each toy checkpoint, as notebook 02 writes it."""
    folder = tmp_path_factory.mktemp("models")
    made = {"distilbert": tiny_distilbert(folder), "gpt2": tiny_gpt2(folder)}
    return {
        name: {"model": name, "checkpoint": str(path), "revision": "", "max_tokens": 128} for name, path in made.items()
    }


@pytest.fixture(scope="module")
def gpt2(records):
    return load_pretrained(records["gpt2"])


# --- words


def test_the_keyword_rule_counts_words():
    assert keyword_rule(
        ["my card my card escrow", "mortgage", "nothing", ""], [["mortgage", "escrow"], ["card"]]
    ).tolist() == [1, 0, 0.5, 0.5]


def test_keywords_are_ours_for_the_studys_classes_and_taken_from_the_texts_for_others():
    ours = choose_keywords([], [], LABELS)
    assert "escrow" in ours[0] and "prepaid" in ours[1] and choose_keywords([], [], LABELS[::-1]) == ours[::-1]
    texts = ["the dog barked at me", "a dog bit me", "the cat purred at me", "a cat slept"] * 2
    found = choose_keywords(texts, [0, 0, 1, 1] * 2, ("dogs", "cats"))
    assert found[0][0] == "dog" and found[1][0] == "cat"
    assert keyword_rule(["dog", "cat"], found).tolist() == [0, 1]


def test_the_linear_model_is_the_one_that_was_chosen():
    texts = some_letters()
    short, long = (linear_model(texts["text"], texts["label"], ngrams, 0.5) for ngrams in ([1, 1], (1, 3)))
    longest = [max(len(term.split()) for term in model[0].vocabulary_) for model in (short, long)]
    assert longest == [1, 3] and short[1].C == long[1].C == 0.5


def test_of_equally_good_settings_the_first_is_taken():
    assert first_best({(1, 1): 0.7, (1, 10): 0.9, (2, 1): 0.9, (2, 10): 0.8}) == (1, 10)
    assert first_best({"majority": 200, "keyword": 380, "tfidf_logreg": 380}) == "keyword"


# --- vectors


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_a_vector_is_the_mean_over_the_texts_own_tokens_whatever_stands_beside_it(records, kind):
    model, tokenizer = load_pretrained(records[kind])
    found = embed(model, tokenizer, TEXTS, 128, CPU)
    assert found.shape == (4, 64)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            tokens = model.base_model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert len(tokens) > 1 and np.allclose(vector, tokens.double().mean(dim=0), atol=1e-5)


def test_a_truncated_text_has_the_vector_of_its_beginning_and_an_empty_one_has_one_too(gpt2):
    model, tokenizer = gpt2
    beginning = tokenizer.decode(tokenizer(TEXTS[1])["input_ids"][:6])
    cut, whole, none = embed(model, tokenizer, [TEXTS[1], beginning, ""], 6, CPU)
    assert np.allclose(cut, whole, atol=1e-5) and np.isfinite(none).all()


def test_saved_numbers_give_the_probability_of_scikit_learns_pipeline():
    rng = np.random.default_rng(0)
    vectors = rng.normal(3, [1, 50, 0.1, 0], (60, 4))  # the last one never varies
    labels = (vectors[:, 1] + rng.normal(0, 20, 60) > 3).astype(int)
    saved = json.loads(json.dumps(plain(fit_on_vectors(vectors, labels, 0.1))))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(vectors, labels)
    expected = pipeline.predict_proba(vectors + 1)[:, 1]
    assert saved["C"] == 0.1 and np.ptp(expected) > 0.5
    assert np.allclose(embedding_probability(saved, vectors + 1), expected, atol=1e-12)


# --- without labels


def log_probability(model, ids, number):
    """Return the log-probability of the last so many ids after those before them."""
    with torch.no_grad():
        each = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=1)
    places = range(len(ids) - number, len(ids))
    return sum(each[place - 1, ids[place]].item() for place in places)


@pytest.mark.parametrize("max_tokens", [512, 60])
def test_a_names_score_is_what_a_text_adds_to_its_log_probability(gpt2, max_tokens):
    model, tokenizer = gpt2
    prompt = tokenizer(PROMPT)["input_ids"]
    scores = []
    for label in LABELS:
        name = tokenizer(" " + label)["input_ids"]
        room = max_tokens - len(prompt) - len(name)
        texts = [tokenizer(text)["input_ids"][:room] for text in TEXTS]
        assert len(name) > 1 and (len(texts[1]) == room) == (max_tokens == 60)  # of few tokens some texts are truncated
        alone = log_probability(model, prompt + name, len(name))
        scores.append([log_probability(model, text + prompt + name, len(name)) - alone for text in texts])
        found = name_score(model, tokenizer, TEXTS, label, max_tokens, CPU)
        assert np.ptp(scores[-1]) > 1e-3 and np.allclose(found, scores[-1], atol=1e-5)
    probability = zero_shot(model, tokenizer, TEXTS, LABELS, max_tokens, CPU)
    assert np.allclose(probability, np.exp(scores[1]) / np.exp(scores).sum(axis=0), atol=1e-5)
    assert np.allclose(zero_shot(model, tokenizer, TEXTS, LABELS[::-1], max_tokens, CPU), 1 - probability)


def test_the_probabilities_of_tokens_are_computed_in_32_bits_whatever_the_model_computes_in(gpt2):
    model, tokenizer = gpt2
    seen = []
    hook = model.lm_head.register_forward_hook(lambda layer, given, logits: seen.append(logits.dtype))
    name_score(model, tokenizer, TEXTS, LABELS[0], 128, Computing(CPU.device, torch.bfloat16))
    hook.remove()
    assert set(seen) == {torch.float32}


def test_too_few_tokens_for_prompt_and_name_are_refused(gpt2):
    model, tokenizer = gpt2
    needed = len(tokenizer(PROMPT)["input_ids"]) + len(tokenizer(" " + LABELS[1])["input_ids"])
    with pytest.raises(CheckFailed, match=f"MAX_TOKENS {needed}: .*'{LABELS[1]}' alone are {needed} tokens"):
        zero_shot(model, tokenizer, TEXTS, LABELS, needed, CPU)
    assert len(zero_shot(model, tokenizer, TEXTS, LABELS, needed + 1, CPU)) == len(TEXTS)


# --- from a result


def test_a_pretrained_model_comes_without_a_head_for_classes_and_gpt2_with_its_own(records):
    distilbert, _ = load_pretrained(records["distilbert"])
    gpt2, tokenizer = load_pretrained(records["gpt2"])
    assert not [name for name, _ in distilbert.named_parameters() if "classifier" in name]
    assert gpt2.lm_head.weight is gpt2.base_model.wte.weight and tokenizer.padding_side == "right"
    with pytest.raises(ValueError, match="MAX_TOKENS 1025 is too many"):
        load_pretrained(records["gpt2"] | {"max_tokens": 1025})


def test_the_baselines_of_a_result_are_those_that_it_was_made_from(records):
    train = some_letters()
    text, label = train["text"], train["label"]
    models = {name: load_pretrained(record) for name, record in records.items()}
    fitted = {name: fit_on_vectors(embed(*loaded, text, 128, CPU), label, 1) for name, loaded in models.items()}
    result = {"keywords": choose_keywords(text, label, LABELS), "tfidf": {"ngrams": (1, 2), "C": 10}}
    result["embeddings"] = {name: records[name] | fitted[name] for name in records}
    expected = {
        "majority": np.full(4, 0.5),
        "keyword": keyword_rule(TEXTS, result["keywords"]),
        "tfidf_logreg": linear_model(text, label, (1, 2), 10).predict_proba(TEXTS)[:, 1],
        **{
            f"{name}_embedding": embedding_probability(fitted[name], embed(*models[name], TEXTS, 128, CPU))
            for name in models
        },
        "gpt2_zeroshot": zero_shot(*models["gpt2"], TEXTS, LABELS, 128, CPU),
    }
    result["validation"] = dict.fromkeys(expected)
    found = fitted_baselines(json.loads(json.dumps(plain(result))), train, LABELS, CPU)
    assert list(found) == list(expected)
    with pytest.raises(CheckFailed, match=r"scored the baselines .*'new'"):
        fitted_baselines(result | {"validation": {**result["validation"], "new": None}}, train, LABELS, CPU)
    for name, probability in expected.items():
        assert np.allclose(found[name](pd.Series(TEXTS, index=[7, 3, 5, 1])), probability, atol=1e-9), name
