"""The helpers on small inputs: bad files are refused with their cause and mend, scores and intervals are the right ones."""

import json
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import f1_score, precision_score

from helpers.complaints import encode_labels, mask_words, near_copies, normalise, overlap, require_rows
from helpers.figures import draw_confusion
from helpers.files import plain, write_whole
from helpers.hub import check_hub
from helpers.machine import measured
from helpers.notebook import Run
from helpers.scores import (
    best_temperature,
    calibration_error,
    check_comparable,
    choose_keywords,
    cost_of,
    intervals,
    keyword_rule,
    paired_test,
    score,
    scores_of_counts,
    with_temperature,
)

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


def test_a_hub_that_does_not_answer_is_named_with_both_ways_out(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"some/data.*--mini.*-p DATASET"):
        check_hub("some/data", "abc", "dataset")


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


# --- scores


def test_scores_of_four_letters_by_hand():
    found = score([1, 1, 0, 0], [1, 0, 0, 0])
    assert found == pytest.approx(
        {"accuracy": 0.75, "precision": 1, "recall": 0.5, "f1": 2 / 3, "macro_f1": (2 / 3 + 0.8) / 2}
    )


def test_scores_from_counts_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    cells = [((labels == a) & (answers == b)).sum() for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    found = scores_of_counts(*map(np.asarray, cells))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(score(labels, answers))
    assert found["precision"] == pytest.approx(precision_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, answers, average="macro"))


def test_wilsons_interval_of_195_in_200():
    answers = np.ones(200, int)
    answers[:5] = 0
    assert intervals(np.ones(200, int), answers, seed=0)["accuracy"] == pytest.approx((0.943, 0.989), abs=5e-4)


def test_bootstrap_intervals_cover_at_about_their_nominal_rate():
    rng, covered, trials = np.random.default_rng(1), 0, 300
    for trial in range(trials):
        labels = rng.integers(0, 2, 200)
        answers = np.where(rng.random(200) < 0.8, labels, 1 - labels)  # true F1 is .8
        low, high = intervals(labels, answers, seed=trial, draws=1000)["f1"]
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / trials <= 0.98


def test_mcnemar_on_three_against_nine():
    labels = np.ones(40, int)
    one, other = labels.copy(), labels.copy()
    one[:9], other[9:12] = 0, 0
    found = paired_test(labels, one, other, seed=0)
    assert found["p"] == pytest.approx(0.146, abs=5e-4)
    assert found["difference"] == pytest.approx(-6 / 40)
    assert found["low"] < -6 / 40 < found["high"]
    assert paired_test(labels, one, one, seed=0) == {"difference": 0, "low": 0, "high": 0, "p": 1}


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


# --- results and their comparison


def result(**changes):
    return {
        "data_sha256": {"train": "a", "test": "b"},
        "labels": list(LABELS),
        "models": ["m"],
        "mini": True,
        "numerics": {"precision": "float32"},
    } | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data_sha256": {"train": "a", "test": "changed"}}, "another data/test.parquet"),
        ({"labels": list(LABELS[::-1])}, "labels"),
        ({"mini": False}, "full result"),
        ({"numerics": {"precision": "bfloat16"}}, "different precisions.*-?PRECISION"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(changes, says):
    hashes = {"train": "a", "test": "b"}
    check_comparable({"03": result()}, hashes, True, LABELS)
    with pytest.raises(ValueError, match=says):
        check_comparable({"03": result(), "04": result(**changes)}, hashes, True, LABELS)


def test_a_run_reads_writes_and_records(tmp_path, capsys):
    page = {
        "SEED": 1,
        "OUT": str(tmp_path),
        "RANK": 4,
        "helper": len,
        "CANDIDATES": 3000,
        "CLASSES": {"a": ["x"], "b": ["y"]},
    }
    run = Run("02_test_data", page)
    run.made_from("mini-complaints-1.parquet")
    run.write_table("test", pd.DataFrame({"id": [1]}))
    with pytest.raises(FileNotFoundError, match=r"01_data makes it.*run_all\.py --only 01_data"):
        run.read_table("train")
    run.save_result(answer=np.array([1, 2]))
    found = json.loads((tmp_path / "results/02_test_data.json").read_text())
    assert (
        found["mini"] is True
        and found["parameters"] == {"CLASSES": page["CLASSES"], "RANK": 4, "SEED": 1}
        and found["labels"] == ["a", "b"]
        and found["answer"] == [1, 2]
    )
    assert found["data_sha256"].keys() == {"test"} and found["seconds"] >= 0 and found["peak_memory_mb"]["host"] > 0
    assert "mini run" in capsys.readouterr().out


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("good")

    def fail_half_way(temporary):
        temporary.write_text("ha")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail_half_way)
    assert path.read_text() == "good" and list(tmp_path.iterdir()) == [path]


# --- figures


def test_a_confusion_matrix_counts_each_outcome_in_its_cell():
    _, axes = plt.subplots()
    draw_confusion([0, 0, 0, 1], np.array([False, False, True, True]), LABELS, "title", axes)
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "1"]


# --- confidence -------------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand_and_on_calibrated_answers():
    assert calibration_error([1, 1, 1, 1], np.full(4, 0.9)) == pytest.approx(0.1)
    assert calibration_error([1, 1, 0, 0], np.full(4, 0.9)) == pytest.approx(0.4)
    assert calibration_error([0, 0, 0, 1], np.full(4, 0.25)) == pytest.approx(0)  # three quarters sure of class 0
    random = np.random.default_rng(0)
    probability = random.random(20_000)
    labels = (random.random(20_000) < probability).astype(int)
    assert calibration_error(labels, probability) < 0.01


def test_the_temperature_undoes_what_made_the_answers_too_sure():
    random = np.random.default_rng(0)
    honest = random.uniform(0.05, 0.95, 20_000)
    labels = (random.random(20_000) < honest).astype(int)
    too_sure = with_temperature(honest, 1 / 3)
    assert best_temperature(labels, too_sure) == pytest.approx(3, rel=0.1)
    assert ((too_sure >= 0.5) == (honest >= 0.5)).all()
    assert with_temperature(np.array([0.0, 1.0]), 2).tolist() == pytest.approx([0.001, 0.999], abs=1e-3)


# --- costs, seeds


def test_what_a_block_costs_is_its_own_time_and_the_most_memory_meanwhile():
    with measured() as before:
        time.sleep(0.05)
    with measured() as cost:
        time.sleep(0.2)
        large = np.ones(40_000_000)  # 305 MB
        time.sleep(0.1)
        del large
    assert 0.05 <= before["seconds"] < 60 and 0.3 <= cost["seconds"] < 60
    assert 250 < cost["memory_mb"]["host"] - before["memory_mb"]["host"] < 400


def test_a_result_holds_what_json_can_hold():
    value = {1: np.float64(0.5), "none": float("nan"), "rows": (np.arange(2), [np.nan]), "text": "x"}
    assert plain(value) == {"1": 0.5, "none": None, "rows": [[0, 1], [None]], "text": "x"}


def test_a_further_seed_reads_the_series_data_and_its_own_results(tmp_path):
    further = tmp_path / "seeds" / "7"
    for folder in (tmp_path / "data", tmp_path / "results", further / "results"):
        folder.mkdir(parents=True)
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "data/train.parquet")
    for folder, name, text in (
        (tmp_path, "02_test_data", "2"),
        (tmp_path, "04_gpt2_lora", "4"),
        (further, "04_gpt2_lora", "7"),
    ):
        (folder / f"results/{name}.json").write_text(text)
    run = Run("05_gpt2_qlora", {"OUT": str(further), "SEED": 7})
    assert run.read_table("train")["text"].tolist() == ["a"]
    assert (run.read_result("02_test_data"), run.read_result("04_gpt2_lora")) == (2, 7)
    top = Run("06_comparing", {"OUT": str(tmp_path), "SEED": 42})
    assert (top.read_result("04_gpt2_lora"), top.read_result("seeds/7/04_gpt2_lora")) == (4, 7)


def test_a_cost_table_counts_what_was_trained_and_leaves_out_what_there_is_not():
    scoring = {"letters": 10, "seconds": 2.0, "memory_mb": {"host": 300, "cuda": None}}
    made = {"base_mb": 5.0, "size_mb": 0.5, "train_seconds": 4.0, "train_texts_per_second": 25.0, "weights": "there"}
    made["parameters"] = {"all": 110, "trained in the adapter": 10, "trained in the head": 3, "trained in the body": 0}
    made["train_memory_mb"] = {"host": 400, "cuda": 200}
    floor, adapter, base = cost_of(scoring, None), cost_of(scoring, made), cost_of(scoring, made | {"weights": None})
    assert floor == {"scoring, letters/s": 5.0, "scoring, MB host": 300, "scoring, MB device": None}
    assert (adapter["weights"], adapter["weights trained"], adapter["trained, MB"]) == (110, 13, 0.5)
    assert (adapter["training, letters/s"], adapter["training, MB device"]) == (25.0, 200)
    assert base["weights"] == 100 and base["base, MB"] == 5.0 and "weights trained" not in base
