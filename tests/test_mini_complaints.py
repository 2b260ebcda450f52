"""The complaint writer: schema, bytes that follow the seed, rows for the study, copies, neither trivial nor noise."""

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
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import mini
from mini import writer

ROOT = Path(__file__).parents[1]
TEXT = "Consumer complaint narrative"
CARD, MORTGAGE = "Credit card or prepaid card", "Mortgage"
RAW_COLUMNS = (
    "Date received, Product, Sub-product, Issue, Sub-issue, Consumer complaint narrative, Company public response, "
    "Company, State, ZIP code, Tags, Consumer consent provided?, Submitted via, Date sent to company, "
    "Company response to consumer, Timely response?, Consumer disputed?, Complaint ID"
)
CARD_WORDS = {"card", "cards", "credit", "charge", "charges", "merchant", "purchase", "purchases", "fraud", "points"}
MORTGAGE_WORDS = {"mortgage", "loan", "home", "house", "property", "escrow", "foreclosure", "refinance", "servicer"}


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
    assert 5_500 < len(rows) < 6_500
    assert study.Product.value_counts().to_dict() == {CARD: 1300, MORTGAGE: 1250}
    assert unlike.Product.value_counts().min() >= 1220
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
    assert lengths.quantile(0.95) < 200
    assert (lengths < 20).sum() > 10
    elsewhere = rows[TEXT][rows.Company != "BANK OF AMERICA, NATIONAL ASSOCIATION"].dropna()
    known, needed = (set(re.findall(r"[a-z']+", " ".join(texts).lower())) for texts in (elsewhere, study[TEXT]))
    assert 1_300 <= len(known) <= 2_500
    assert len(needed - known) < 30


def test_details_are_masked_and_the_grammar_leaves_no_trace(study):
    texts = study[TEXT]
    for mask in (r"XX/XX/\d{4}", r"\{\$\d+\.\d\d\}", "XXXX"):
        assert texts.str.contains(mask).mean() > 0.1
    assert not texts.str.contains(r"[<>()|]").any()


def test_a_linear_model_is_good_but_not_perfect(unlike):
    scores = []
    for seed in range(3):
        train, test = train_test_split(unlike, train_size=2000, stratify=unlike.card, random_state=seed)
        vectors = TfidfVectorizer(ngram_range=(1, 2))
        model = LogisticRegression(max_iter=1000).fit(vectors.fit_transform(train.words), train.card)
        scores.append(model.score(vectors.transform(test.words), test.card))
    assert 0.94 <= sum(scores) / 3 <= 0.98
    assert max(scores) < 1


def test_give_away_words_overlap(unlike):
    words = unlike.words.str.split()
    pull = words.map(lambda text: sum((word in CARD_WORDS) - (word in MORTGAGE_WORDS) for word in text))
    right = ((pull > 0) == (unlike.card == 1))[pull != 0].sum() + (pull == 0).sum() / 2
    assert 0.84 <= right / len(unlike) <= 0.93
    for own, pattern in ((0, r"\bcards?\b"), (1, r"\b(?:mortgage|house|home)\b")):
        assert 0.1 < unlike.words[unlike.card == own].str.contains(pattern).mean() < 0.6
