"""The choice of complaints: classes, too few rows, and copies of a letter that are found and invented nowhere."""

import json
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from toy_complaints import CARDS, CLASSES, COMPANY, as_csv, complaints, written

from helpers.complaints import (
    count_values,
    encode_labels,
    load_complaints,
    mask_words,
    near_duplicates,
    normalise,
    other_complaints,
    overlap,
    require_rows,
    rows_per_class,
    select,
)
from helpers.sources import NARRATIVE, PRODUCT, SourceError

LABELS = tuple(CLASSES)


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


# --- which complaints of a source are taken


def select_from(path, company=COMPANY, classes=CLASSES, **options):
    return select(load_complaints(str(path), "", "", company=company, **options), company, classes)


def test_each_condition_counts_what_it_leaves(tmp_path):
    rows = complaints().astype({PRODUCT: object, NARRATIVE: object})
    rows.loc[0, NARRATIVE], rows.loc[1, NARRATIVE], rows.loc[2, "Company"] = None, "  ", "ANOTHER BANK"
    rows.loc[3, PRODUCT], rows.loc[4, PRODUCT], rows.loc[5, PRODUCT] = None, "Student loan", " Credit card "
    path = written(tmp_path / "c.csv", as_csv(rows))
    found, left = select_from(path)
    assert left == {
        "are in the source": 60,
        "have a narrative": 58,
        "were sent to the company": 57,
        "are about one of the classes": 55,
    }
    assert found["id"].tolist() == list(range(5, 60)) and found["product"].iloc[0] == "Credit card"
    everybody, left = select_from(path, company="")
    assert list(left) == ["are in the source", "have a narrative", "are about one of the classes"]
    assert everybody["id"].tolist() == [2, *range(5, 60)] and left["are about one of the classes"] == 56


@pytest.mark.parametrize("cards", [("Credit card or prepaid card",), ("Credit card", "Prepaid card"), tuple(CARDS)])
def test_all_names_that_the_bureau_has_given_the_products_are_one_class(cards, tmp_path):
    found, _ = select_from(written(tmp_path / "c.csv", as_csv(complaints(cards=cards))))
    assert found["label"].value_counts().to_dict() == {0: 30, 1: 30}
    assert set(found.loc[found["label"] == 1, "product"]) == set(cards)
    assert rows_per_class(found, list(CLASSES)).startswith(
        "Mortgage: 30 (Mortgage 30)\nCredit card or prepaid card: 30 ("
    )


def test_a_labelled_file_that_holds_no_complaints_is_read_by_other_values(tmp_path):
    path = written(tmp_path / "a.csv", "label,body\n" + "0,ham\n1,spam\n" * 5 + "2,eggs\n")
    options = {"company": "", "text_column": "body", "label_column": "label"}
    found, _ = select_from(path, classes={"spam": [1], "ham": ["0"]}, **options)
    assert found["text"].tolist() == ["ham", "spam"] * 5 and found["label"].tolist() == [1, 0] * 5


@pytest.mark.parametrize(
    ("asked", "there"),
    [(COMPANY, "Bank of America"), ("Bank of America", COMPANY), ("bonk of amerika", "Bank of America")],
)
def test_a_company_that_nobody_complains_about_is_answered_with_the_nearest(asked, there, tmp_path):
    rows = pd.concat([complaints(there)[:50], complaints("SOME OTHER BANK"), complaints("Bank of Americana")[:4]])
    path = written(tmp_path / "c.csv", as_csv(rows))
    with pytest.raises(SourceError) as refused:
        select_from(path, company=asked)
    says = str(refused.value)
    assert f"COMPANY {asked!r} has no complaint: 114 of 114 rows have a text" in says and f"{there} 50" in says
    assert f"-p COMPANY '{there}'" in says and len(says.splitlines()) <= 4


def test_a_class_that_nobody_is_in_is_answered_with_the_products_and_classes_to_type(tmp_path):
    rows = complaints(cards=("Student loan", "Debt collection", "Student loan"))
    path = written(tmp_path / "c.csv", as_csv(rows))
    with pytest.raises(SourceError) as refused:
        select_from(path)
    says = str(refused.value)
    assert f"has no complaint to {COMPANY} of the class 'Credit card or prepaid card'" in says
    assert "Found: Mortgage 30, Student loan 20, Debt collection 10" in says
    typed = says.partition("-p CLASSES '")[2].partition("'")[0]
    found, _ = select_from(path, classes=json.loads(typed))
    assert json.loads(typed) == {"Mortgage": ["Mortgage"], "Student loan": ["Student loan"]}
    assert found["label"].value_counts().to_dict() == {0: 30, 1: 20}


def test_a_source_of_a_single_product_is_refused(tmp_path):
    path = written(tmp_path / "c.csv", as_csv(complaints(cards=("Mortgage",))))
    with pytest.raises(
        SourceError, match=r"'Credit card or prepaid card'.\nFound: Mortgage 60\nFix: .*-p DATASET PATH"
    ):
        select_from(path)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({"a": ["x"]}, "must be two, not 1"),
        ({"a": ["x"], "b": ["y"], "c": ["z"]}, "must be two, not 3"),
        ({"a": ["x", "y"], "b": ["z", " y"]}, r"both classes\.\nFound: \['y'\]"),
        ({"a": "x", "b": ["y"]}, "a list of product names"),
        ({"a": [], "b": ["y"]}, "a list of product names"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused_before_anything_is_read(classes, says):
    def unread():
        pytest.fail("the source was read")
        yield

    with pytest.raises(SourceError, match=rf"CLASSES .*{says}[^$]*-p CLASSES '"):
        select(unread(), "", classes)


def test_the_values_that_are_counted_do_not_fill_the_memory():
    seen = defaultdict(Counter)
    for part in range(8):
        rows = pa.table({"product": [f"text {part} {i}" for i in range(10_000)] + ["Mortgage"] * 100})
        count_values(seen, "are about one of the classes", rows)
    assert len(seen["are about one of the classes"]) <= 50_000
    assert seen["are about one of the classes"]["Mortgage"] == 800


# --- other complaints, to be judged too


def test_other_complaints_are_anybodys_and_no_duplicates_of_known_ones(tmp_path, capsys):
    rows = complaints("EXAMPLE SAVINGS BANK")
    long = "the escrow on my house was raised twice in one year and nobody could tell me why"
    rows.loc[0, NARRATIVE], rows.loc[1, NARRATIVE], rows.loc[2, NARRATIVE] = (
        "Known, to the word.",
        "Hello. " + long,
        long.upper(),
    )
    found = other_complaints(str(written(tmp_path / "newer.csv", as_csv(rows))), ["known to the word", long], CLASSES)
    assert found["id"].tolist() == list(range(3, 60)) and found["label"].tolist() == [1, 0] * 28 + [1]
    said = capsys.readouterr().out
    assert "newer: 60 rows, 60 complaints on these products, 57 of them no duplicate of a known text." in said
    assert "Mortgage: 28 (Mortgage 28)" in said
    assert "Credit card or prepaid card: 29 (Credit card 24, Prepaid card 5)" in said


def test_other_complaints_of_a_single_class_are_refused_and_speak_of_their_own_parameter(tmp_path):
    path = written(tmp_path / "c.csv", as_csv(complaints(cards=("Student loan",))))
    with pytest.raises(
        SourceError,
        match=r"EXTRA_TEST.* 'Credit card or prepaid card'\.\nFound: Mortgage 30, Student loan 30\n.*-p EXTRA_TEST PATH",
    ):
        other_complaints(str(path), [], CLASSES)
    with pytest.raises(SourceError, match=r"^EXTRA_TEST .*nowhere\.csv is not there"):
        other_complaints(str(tmp_path / "nowhere.csv"), [], CLASSES)
    rows = complaints()
    path = written(tmp_path / "d.csv", as_csv(rows))
    with pytest.raises(SourceError, match=r"d\.csv has nothing new of one class: 30 complaints duplicate"):
        other_complaints(str(path), rows.loc[rows[PRODUCT] == "Mortgage", NARRATIVE].tolist(), CLASSES)


# --- copies


def test_near_duplicates_are_pairs_that_share_half_their_runs_of_five_words():
    letter = "the bank raised my escrow payment twice in one year and sent no letter to me about it"
    texts = [letter, "my card was charged for a fee that I never agreed to pay at all", letter + " please help"]
    assert near_duplicates(texts) == [(0, 2)]
    assert near_duplicates(texts, threshold=0.95) == []


def all_pairs(texts: list[str], threshold: float) -> list[tuple[int, int]]:
    """Return what near_duplicates must: every pair of texts is compared, on a matrix of the runs of five words."""
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
def test_near_duplicates_misses_no_pair_and_invents_none(at_once, monkeypatch):
    monkeypatch.setattr("helpers.complaints.AT_ONCE", at_once)
    random, pairs, crossing = np.random.default_rng(at_once), 0, 0
    for _ in range(60):
        texts, threshold = random_texts(random), random.choice([0.1, 0.3, 0.5, 0.57, 0.7, 0.95, 1])
        expected, first = all_pairs(texts, threshold), int(random.integers(len(texts) + 1))
        across = [(i, j - first) for i, j in expected if i < first <= j]
        assert near_duplicates(texts, threshold) == expected
        assert near_duplicates(texts[first:], threshold, known=texts[:first]) == across
        pairs, crossing = pairs + len(expected), crossing + len(across)
    assert pairs > 500 and crossing > 100


def test_boilerplate_that_thousands_of_texts_hold_makes_no_near_duplicates_and_hides_none():
    random = np.random.default_rng(0)
    boilerplate = "i file this complaint because the bank did not answer any of my many letters at all"
    own = [" ".join(random.choice(5000, 30).astype(str)) for _ in range(3000)]
    texts = [f"{text} {boilerplate}" for text in own]
    assert near_duplicates([*texts, texts[7] + " thank you", boilerplate]) == [(7, 3000)]


def test_without_known_texts_nothing_is_a_copy_of_one():
    text = "one two three four five six seven"
    assert near_duplicates([text, text], known=[]) == [] and near_duplicates([], known=[text]) == []
    assert overlap([], [text, text]) == {"exact": 0, "normalised": 0, "near": 0}


def test_overlap_finds_each_kind_of_copy():
    letter = "One two three four five six seven eight nine ten eleven twelve."
    assert overlap([letter], [letter]) == {"exact": 1, "normalised": 1, "near": 1}
    assert overlap([letter], [letter.upper()]) == {"exact": 0, "normalised": 1, "near": 1}
    assert overlap([letter], ["And " + letter]) == {"exact": 0, "normalised": 0, "near": 1}
    assert overlap([letter], ["Quite another matter it is that I write to you about."]) == dict.fromkeys(
        ("exact", "normalised", "near"), 0
    )


def test_normalise_leaves_words_only():
    assert normalise("  They charged {$35.00}!! ") == "they charged 35 00"


def test_masked_words_become_what_the_bureau_writes_and_an_empty_mask_deletes_them():
    text = ["Card, cards and my CARD."]
    assert mask_words(text, ["card"]) == ["XXXX, cards and my XXXX."]
    assert mask_words(text, ["card", "my"], mask="") == [", cards and."]
