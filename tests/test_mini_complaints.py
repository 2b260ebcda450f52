"""The complaint writer: schema, bytes that follow the seed, rows for the study, copies, texts that share hardly anything, planted truth."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split

import mini
from helpers.baselines import choose_keywords, keyword_rule, linear_model
from helpers.complaints import containment
from helpers.sources import NARRATIVE as TEXT
from mini import writer

ROOT = Path(__file__).parents[1]
CARD, MORTGAGE = "Credit card or prepaid card", "Mortgage"
RAW_COLUMNS = (
    "Date received, Product, Sub-product, Issue, Sub-issue, Consumer complaint narrative, Company public response, "
    "Company, State, ZIP code, Tags, Consumer consent provided?, Submitted via, Date sent to company, "
    "Company response to consumer, Timely response?, Consumer disputed?, Complaint ID"
)
TRAINING, VALIDATION, HELD_OUT = 960, 240, 1500  # rows that 01 and 02 draw, of both classes together


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return writer.write_complaints(tmp_path_factory.mktemp("data") / "complaints.parquet", seed=0)


@pytest.fixture(scope="module")
def rows(path):
    return pd.read_parquet(path)


@pytest.fixture(scope="module")
def study(rows):
    """What the study's filter leaves."""
    mine = rows.Company == "BANK OF AMERICA, NATIONAL ASSOCIATION"
    return rows[mine & rows.Product.isin([CARD, MORTGAGE]) & rows[TEXT].notna()]


@pytest.fixture(scope="module")
def unlike(study):
    """The study's texts without exact and restyled copies and blanks, with `words` and `card` (1 or 0) added."""
    words = study[TEXT].map(writer.plain_words)
    texts = study.assign(words=words, card=(study.Product == CARD).astype(int))
    return texts[texts.words != ""].drop_duplicates("words")


@pytest.fixture(scope="module")
def planted():
    """{narrative: what is planted in it}."""
    return writer.planted(seed=0)


@pytest.fixture(scope="module", params=[0, 1])
def drawn(request, unlike):
    """Training, validation and held-out rows, drawn at random and balanced, as the notebooks draw them."""
    sizes = {"train_size": VALIDATION + TRAINING, "test_size": HELD_OUT, "random_state": request.param}
    train, held_out = train_test_split(unlike, stratify=unlike.card, **sizes)
    training, validation = train_test_split(
        train, test_size=VALIDATION, stratify=train.card, random_state=request.param
    )
    return training, validation, held_out


def test_schema_is_that_of_the_source(path, rows):
    schema = pq.read_schema(path)
    assert schema.names == RAW_COLUMNS.split(", ")
    assert schema.types == [pa.string()] * 17 + [pa.int64()]
    assert rows["Complaint ID"].is_unique
    for column in ("Date received", "Date sent to company"):
        assert rows[column].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    assert (rows["Date received"] <= rows["Date sent to company"]).all()


def test_same_seed_same_bytes(path, tmp_path):
    again = writer.write_complaints(tmp_path / "new folder" / "again.parquet", seed=0)
    changed = writer.write_complaints(tmp_path / "changed.parquet", seed=1)
    assert again.read_bytes() == path.read_bytes() != changed.read_bytes()


def test_the_same_bytes_under_another_hash_seed(path, tmp_path):
    target = tmp_path / "other.parquet"
    command = [
        sys.executable,
        "-c",
        "import sys; from mini import writer; from pathlib import Path; writer.write_complaints(Path(sys.argv[1]))",
        target,
    ]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "notebooks")))
    environment = {"PYTHONHASHSEED": "7", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": paths}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    assert target.read_bytes() == path.read_bytes()


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "complaints.parquet"
    target.write_text("earlier")

    def torn(table, part):
        Path(part).write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(writer.pq, "write_table", torn)
    with pytest.raises(OSError, match="No space"):
        writer.write_complaints(target)
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("changed", ["writer.py", "grammar.txt"])
def test_changed_code_or_grammar_gives_the_file_another_name(tmp_path, monkeypatch, changed):
    before = mini.embedded_data(tmp_path)
    for name in ("writer.py", "grammar.txt"):
        shutil.copy(ROOT / "mini" / name, tmp_path)
    monkeypatch.setattr(mini, "HERE", tmp_path)
    monkeypatch.setattr(writer, "GRAMMAR_FILE", tmp_path / "grammar.txt")
    with open(tmp_path / "writer.py", "a") as file:
        file.write("# a comment\n")
    assert mini.embedded_data(tmp_path) == before
    with open(tmp_path / changed, "a") as file:
        file.write("\nmore = 1\n")
    assert mini.embedded_data(tmp_path) != before


def test_every_filter_of_the_study_bites(rows, study, unlike):
    assert 6_500 < len(rows) < 7_500
    assert study.Product.value_counts().to_dict() == {CARD: 1820, MORTGAGE: 1800}
    assert unlike.Product.value_counts().min() >= 1000 + 760
    mine = rows.Company == "BANK OF AMERICA, NATIONAL ASSOCIATION"
    assert (mine & rows[TEXT].notna() & ~rows.Product.isin([CARD, MORTGAGE])).sum() > 100
    assert (mine & rows[TEXT].isna() & rows.Product.isin([CARD, MORTGAGE])).sum() > 20
    assert (study[TEXT].str.strip() == "").sum() == 2


def test_enough_letters_to_other_companies_for_pretraining(rows):
    elsewhere = rows[(rows.Company != "BANK OF AMERICA, NATIONAL ASSOCIATION") & rows[TEXT].notna()]
    assert 1_200 <= len(elsewhere) <= 1_500
    assert elsewhere.Company.nunique() == 8
    assert elsewhere.Product.nunique() == 8
    assert elsewhere.Product.value_counts()[[CARD, MORTGAGE]].min() >= 400


def test_exact_restyled_and_near_duplicates_are_there(study, unlike):
    exact = study[TEXT][study[TEXT].str.strip() != ""].duplicated().sum()
    assert exact == 10
    assert len(study) - 2 - exact - len(unlike) == 10
    assert len(near_duplicates(list(unlike.words))) == 16


def near_duplicates(texts: list[str]) -> list[tuple[int, int]]:
    """Pairs of texts that share more than half of their three-word runs."""
    runs = CountVectorizer(ngram_range=(3, 3), binary=True, token_pattern=r"\S+").fit_transform(texts)
    shared = (runs @ runs.T).tocoo()
    sizes = runs.sum(axis=1).A1
    pairs = zip(shared.row, shared.col, shared.data, strict=True)
    return [(a, b) for a, b, both in pairs if a < b and both > 0.5 * (sizes[a] + sizes[b] - both)]


def test_lengths_and_vocabulary_suit_a_miniature_model(rows, study):
    lengths = study[TEXT].str.split().str.len()
    assert 60 <= lengths.median() <= 85
    assert lengths.quantile(0.95) < 220
    assert (lengths < 25).sum() > 10
    elsewhere = rows[TEXT][rows.Company != "BANK OF AMERICA, NATIONAL ASSOCIATION"].dropna()
    known, needed = (set(re.findall(r"[a-z']+", " ".join(texts).lower())) for texts in (elsewhere, study[TEXT]))
    assert 1_300 <= len(known) <= 2_500
    assert len(needed - known) < 100


def test_details_are_masked_and_the_grammar_leaves_no_trace(study):
    texts = study[TEXT]
    for mask in (r"XX/XX/\d{4}", r"\{\$\d+\.\d\d\}", "XXXX"):
        assert texts.str.contains(mask).mean() > 0.1
    assert not texts.str.contains(r"[][<>()|=]|[ ][,.?]").any()


def test_what_is_held_out_hardly_stands_in_training(rows, drawn):
    training, validation, held_out = drawn
    elsewhere = rows[TEXT][rows.Company != "BANK OF AMERICA, NATIONAL ASSOCIATION"].dropna()
    whole = pd.concat([training, validation])
    for known, texts in ((training, validation), (whole, held_out)):
        shares = containment(known[TEXT], texts[TEXT])
        assert shares["sentences"] <= 0.01 and shares["runs of five words"] <= 0.1
    shares = containment(elsewhere, held_out[TEXT])
    assert shares["sentences"] <= 0.01 and shares["runs of five words"] <= 0.1


def test_a_linear_model_is_good_but_not_perfect_and_keywords_do_not_win(drawn):
    training, validation, held_out = drawn
    others = pd.concat([validation, held_out])
    linear = linear_model(training[TEXT], training.card, (1, 2), 10)
    right = (linear.predict(others[TEXT]) == others.card).mean()
    assert 0.935 <= right <= 0.97 < writer.ceiling()
    keywords = choose_keywords(training[TEXT], training.card, (MORTGAGE, CARD))
    by_keywords = ((keyword_rule(others[TEXT], keywords) >= 0.5) == others.card).mean()
    assert 0.82 <= by_keywords <= 0.9 < right


def test_most_predictive_words_overlap(unlike):
    for own, pattern in ((0, r"\bcards?\b"), (1, r"\b(?:mortgage|house|home)\b")):
        assert 0.04 < unlike.words[unlike.card == own].str.contains(pattern).mean() < 0.5


def test_what_is_planted_is_known_and_the_file_does_not_tell(study, planted):
    truth = study[TEXT].map(planted)
    assert set(truth.dropna()) == {"wrong label", "undecidable"} and set(planted) == set(study[TEXT][truth.notna()])
    shares = truth.value_counts() / len(study)
    assert 0.010 <= shares["wrong label"] <= 0.023 and 0.014 <= shares["undecidable"] <= 0.029
    for column in study.columns.drop([TEXT, "Complaint ID"]):
        values = study[column].fillna("none")
        both = [set(values[truth == kind]) for kind in ("wrong label", "undecidable")]
        assert column.startswith("Date") or set.union(*both) <= set(values[truth.isna()])


def test_wrong_labels_tell_of_the_other_product(study, planted):
    truth = study[TEXT].map(planted)
    plain, wrong = study[truth.isna()], study[truth == "wrong label"]
    linear = linear_model(plain[TEXT], plain.Product, (1, 2), 10)
    assert (linear.predict(wrong[TEXT]) != wrong.Product).mean() > 0.9
    hidden = study[truth == "undecidable"]
    assert 0.3 < (linear.predict(hidden[TEXT]) == hidden.Product).mean() < 0.7


def test_the_ceiling_is_what_a_judge_who_knows_what_is_planted_can_expect(study, planted):
    texts = study[study[TEXT].str.strip() != ""][TEXT]
    truth = texts.map(planted)
    expected = 1 - (truth == "wrong label").mean() - (truth == "undecidable").mean() / 2
    assert abs(expected - writer.ceiling()) < 0.01
    assert 0.97 < writer.ceiling() < 0.98


def test_only_the_embedded_data_have_a_known_ceiling(tmp_path):
    given = mini.prepare(None, "", tmp_path, make=False)
    assert given["02_test_data"]["CEILING"] == writer.ceiling()
    given = mini.prepare(tmp_path / "own.csv", "", tmp_path, make=False)
    assert "CEILING" not in given["02_test_data"]


def test_the_grammar_uses_every_rule_and_has_every_rule_it_uses():
    used = set(re.findall(r"<([\w.]+)>", " ".join(text for texts in writer.GRAMMAR.values() for text in texts)))
    parts = {"paper", "sum", "matter", "deed", "did"}
    assert used - set(writer.GRAMMAR) == parts | {"bank"}
    top = {
        name
        for name in writer.GRAMMAR
        if re.fullmatch(r"\w+_(open|named|aside|hint)|lead|tail|shared|story|wish", name)
    }
    topical = {f"{topic}.{part}" for topics in writer.TOPICS.values() for topic in topics for part in parts}
    assert set(writer.GRAMMAR) - used == top | topical
    assert all(len(topics) == (8 if about in ("card", "mortgage") else 1) for about, topics in writer.TOPICS.items())
    assert not [text for texts in writer.GRAMMAR.values() for text in texts if not text.strip()]


def test_containment_counts_sentences_and_runs_that_return():
    known = ["The bank lost my new card today. I am angry!"]
    assert containment(known, known) == {"sentences": 1, "runs of five words": 1}
    shares = containment(known, ["THE BANK, lost my new card today? It was a very bad day."])
    assert shares == {"sentences": 1 / 2, "runs of five words": 3 / 9}
    assert containment(known, ["I am angry."]) == {"sentences": 0, "runs of five words": 0}
