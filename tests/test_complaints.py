"""The choice of complaints: classes, too few rows, and copies of a letter that are found and invented nowhere."""

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from helpers.complaints import encode_labels, mask_words, near_copies, normalise, overlap, require_rows

LABELS = ("Mortgage", "Credit card or prepaid card")
CLASSES = {LABELS[0]: [LABELS[0]], LABELS[1]: [LABELS[1], "Credit card", "Prepaid card"]}


# --- the classes


def test_a_class_never_seen_is_named():
    products = pd.Series(["Prepaid card", LABELS[0], LABELS[1]])
    assert encode_labels(products, CLASSES).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="Student loan"):
        encode_labels(pd.Series([LABELS[0], "Student loan"]), CLASSES)


def test_too_few_rows_are_counted_and_the_parameter_to_lower_is_named():
    require_rows(pd.DataFrame({"label": [0, 0, 1, 1]}), 2, "TRAIN_ROWS", list(CLASSES))
    with pytest.raises(ValueError, match=r"TRAIN_ROWS=2 .* 3 of 'Mortgage' and 1 of 'Credit.*-p TRAIN_ROWS 1\)"):
        require_rows(pd.DataFrame({"label": [0, 0, 0, 1]}), 2, "TRAIN_ROWS", list(CLASSES))


def test_where_nobody_is_left_of_a_class_no_number_of_rows_is_advised():
    with pytest.raises(ValueError, match=r"-p DATASET PATH.*-p COMPANY NAME.*-p CLASSES") as refused:
        require_rows(pd.DataFrame({"label": [0, 0, 0]}), 2, "TRAIN_ROWS", list(CLASSES))
    assert "-p TRAIN_ROWS" not in str(refused.value)


# --- copies


def test_near_copies_are_pairs_that_share_half_their_runs_of_five_words():
    letter = "the bank raised my escrow payment twice in one year and sent no letter to me about it"
    texts = [letter, "my card was charged for a fee that I never agreed to pay at all", letter + " please help"]
    assert near_copies(texts) == [(0, 2)]
    assert near_copies(texts, threshold=0.95) == []


def all_pairs(texts: list[str], threshold: float) -> list[tuple[int, int]]:
    """Return what near_copies must: every pair of texts is compared, on a matrix of the runs of five words."""
    counter = CountVectorizer(preprocessor=normalise, token_pattern=r"\S+", ngram_range=(5, 5), binary=True)
    sets = counter.fit_transform(["one two three four five", *texts])[1:]  # a vocabulary must not be empty
    sizes = np.asarray(sets.sum(axis=1)).ravel()
    shared = (sets @ sets.T).tocoo()
    upper = shared.row < shared.col
    i, j, both = shared.row[upper], shared.col[upper], shared.data[upper]
    close = both / (sizes[i] + sizes[j] - both) >= threshold
    return sorted(zip(i[close].tolist(), j[close].tolist(), strict=True))


def random_texts(random: np.random.Generator) -> list[str]:
    """Return texts that are changed from a few, of words that are few or many: of any length, the empty one included."""
    words = [f"w{i}" for i in range(random.choice([2, 3, 10, 200]))]
    bases = [random.choice(words, random.integers(0, 40)).tolist() for _ in range(4)]
    texts = []
    for _ in range(random.integers(0, 60)):
        text = list(bases[random.integers(4)])
        for _ in range(random.integers(0, 7)):
            at = int(random.integers(len(text) + 1))
            text[at : at + int(random.integers(2))] = random.choice(words, random.integers(0, 2)).tolist()
        texts.append(" ".join(text))
    return texts


@pytest.mark.parametrize("at_once", [7, 100, 2**21])
def test_near_copies_misses_no_pair_and_invents_none(at_once, monkeypatch):
    monkeypatch.setattr("helpers.complaints.AT_ONCE", at_once)
    random, pairs, crossing = np.random.default_rng(at_once), 0, 0
    for _ in range(60):
        texts, threshold = random_texts(random), random.choice([0.1, 0.3, 0.5, 0.57, 0.7, 0.95, 1])
        expected, first = all_pairs(texts, threshold), int(random.integers(len(texts) + 1))
        across = [(i, j - first) for i, j in expected if i < first <= j]
        assert near_copies(texts, threshold) == expected
        assert near_copies(texts[first:], threshold, known=texts[:first]) == across
        pairs, crossing = pairs + len(expected), crossing + len(across)
    assert pairs > 500 and crossing > 100


def test_boilerplate_that_thousands_of_texts_hold_makes_no_near_copies_and_hides_none():
    random = np.random.default_rng(0)
    boilerplate = "i file this complaint because the bank did not answer any of my many letters at all"
    own = [" ".join(random.choice(5000, 30).astype(str)) for _ in range(3000)]
    texts = [f"{text} {boilerplate}" for text in own]
    assert near_copies([*texts, texts[7] + " thank you", boilerplate]) == [(7, 3000)]


def test_without_known_texts_nothing_is_a_copy_of_one():
    text = "one two three four five six seven"
    assert near_copies([text, text], known=[]) == [] and near_copies([], known=[text]) == []
    assert overlap([], [text, text]) == {"exact": 0, "normalised": 0, "near": 0}


def test_overlap_finds_each_kind_of_copy():
    letter = "One two three four five six seven eight nine ten eleven twelve."
    assert overlap([letter], [letter]) == {"exact": 1, "normalised": 1, "near": 1}
    assert overlap([letter], [letter.upper()]) == {"exact": 0, "normalised": 1, "near": 1}
    assert overlap([letter], ["And " + letter]) == {"exact": 0, "normalised": 0, "near": 1}
    assert overlap([letter], ["Quite another matter it is that I write to you about."]) == dict.fromkeys(
        ("exact", "normalised", "near"), 0
    )


def test_normalise_and_masking_leave_words_only():
    assert normalise("  They charged {$35.00}!! ") == "they charged 35 00"
    assert mask_words(["Card, cards and CARD."], ["card"]) == ["____, cards and ____."]
