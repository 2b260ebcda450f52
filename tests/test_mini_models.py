"""The miniature models: the hub's layout and calls, built once and whole, from no text of the study."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import mini
from mini import pretrain

ROOT = Path(__file__).parents[1]
STUDY, KINDS = "STUDY BANK", ("distilbert", "gpt2")
LAYERS = {
    "distilbert": {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2", "pre_classifier", "classifier"},
    "gpt2": {"c_attn", "c_proj", "c_fc", "score"},
}


def write_table(path, others=240, ending=""):
    """Write `others` letters to other companies, 20 to the study's (which alone say zyzzyva) and a missing one."""
    letter = (
        "My payment of {{${0}.00}} from XX/XX/2021 was late, so the bank charged a fee and the lender did not answer. "
    )
    theirs = [letter.format(i) + letter.format(i % 7) + ending for i in range(others)]
    ours = [f"Zyzzyva zyzzyva zyzzyva took my house and my card number {i}." for i in range(20)]
    companies = [f"BANK {i % 3}" for i in range(others)] + [STUDY] * 20 + ["BANK 0"]
    rows = pd.DataFrame({"Company": companies, "Consumer complaint narrative": [*theirs, *ours, None], "Unused": 1})
    rows.to_csv(path, index=False) if path.suffix == ".csv" else rows.to_parquet(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Let a pretraining train a model 64 wide."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setitem(pretrain.RECIPES, kind, pretrain.Recipe(vocabulary=300, width=64))
        yield


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Return a small table."""
    return write_table(tmp_path_factory.mktemp("data") / "letters.parquet")


@pytest.fixture(scope="module")
def folders(letters, tmp_path_factory):
    """Return {kind: folder} of the models made for the small table; they are read only."""
    cache = tmp_path_factory.mktemp("cache")
    return {kind: mini.find_or_pretrain(kind, 2, letters, STUDY, None, cache, True) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_layout_is_the_hubs(folders, kind):
    names = {path.name for path in folders[kind].iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert folders[kind].name.startswith(f"mini-{kind}-")


@pytest.mark.parametrize("kind", KINDS)
def test_loads_by_the_calls_of_the_true_checkpoints(folders, kind):
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    model = AutoModelForSequenceClassification.from_pretrained(folders[kind], num_labels=2).eval()
    assert {name.split(".")[-1] for name, _ in model.named_modules()} >= LAYERS[kind]
    ids = tokenizer("The bank charged a LATE fee.", return_tensors="pt")["input_ids"]
    assert ids.max() < model.config.vocab_size == len(tokenizer)
    with torch.no_grad():
        assert model(ids).logits.shape == (1, 2)


def test_special_tokens_are_those_of_the_true_tokenizers(folders):
    bert, gpt = (AutoTokenizer.from_pretrained(folders[kind]) for kind in KINDS)
    assert bert.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = bert("A fee")["input_ids"]
    assert (ids[0], ids[-1]) == (bert.cls_token_id, bert.sep_token_id) and ids == bert("a FEE")["input_ids"]
    assert gpt.pad_token is None and gpt.eos_token == "<|endoftext|>"
    assert gpt.decode(gpt("A late\n fee…")["input_ids"]) == "A late\n fee…"


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights(tmp_path, kind):
    texts = [
        f"the bank took fee number {i} and another fee, and nobody there answered my letter about it"
        for i in range(240)
    ]
    one, two, three = (pretrain.build(kind, texts, tmp_path / str(i), 2, seed) for i, seed in enumerate((0, 0, 1)))
    assert one.name == two.name != three.name
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_built_once_and_anew_for_other_narratives(tmp_path, monkeypatch, suffix):
    table, cache = write_table(tmp_path / f"letters{suffix}"), tmp_path / "cache"
    first = mini.prepare(table, STUDY, cache, pretrain=2)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "build", lambda *args: pytest.fail("built twice"))
        assert mini.prepare(table, STUDY, cache, pretrain=2) == first
    other = mini.prepare(write_table(tmp_path / f"other{suffix}", ending="Fix it."), STUDY, cache, pretrain=2)
    for name, base in (("03_distilbert_lora", "DISTILBERT"), ("04_gpt2_lora", "GPT2"), ("05_gpt2_qlora", "GPT2")):
        assert other[name][base] != first[name][base]
    assert first["04_gpt2_lora"] == first["05_gpt2_qlora"]
    assert first["01_data"]["DATASET"] == str(table)


def test_a_folder_of_other_content_under_the_same_name_is_pretrained_on_anew(tmp_path):
    (tmp_path / "shards").mkdir()
    write_table(tmp_path / "shards/part-0.parquet")
    made = [mini.find_or_pretrain("gpt2", 2, tmp_path / "shards", STUDY, None, tmp_path / "cache", True)]
    write_table(tmp_path / "shards/part-0.parquet", ending="Fix it.")
    made.append(mini.find_or_pretrain("gpt2", 2, tmp_path / "shards", STUDY, None, tmp_path / "cache", True))
    assert made[0] != made[1]


def test_a_model_that_was_not_finished_is_not_used(tmp_path, monkeypatch):
    table, cache = write_table(tmp_path / "letters.parquet"), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.PreTrainedTokenizerFast, "save_pretrained", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mini.find_or_pretrain("gpt2", 2, table, STUDY, None, cache, True)
    assert not list(cache.glob("*/mini-*"))
    assert (mini.find_or_pretrain("gpt2", 2, table, STUDY, None, cache, True) / "tokenizer.json").exists()


def test_no_text_of_the_study_is_seen(folders, letters):
    texts = mini.other_narratives(letters, STUDY)
    assert len(texts) == 240 and not [text for text in texts if "yzzyva" in text]
    for folder in folders.values():
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        assert len(vocabulary) > 50 and not [token for token in vocabulary if "zy" in token.lower()]


def test_a_text_of_an_evaluation_is_not_seen_either(letters, tmp_path):
    theirs = mini.other_narratives(letters, STUDY)
    pd.DataFrame({"Consumer complaint narrative": [theirs[3].upper(), None]}).to_csv(tmp_path / "extra.csv")
    assert mini.other_narratives(letters, STUDY, tmp_path / "extra.csv") == [*theirs[:3], *theirs[4:]]


def test_a_model_that_is_given_is_neither_pretrained_nor_trained_as_a_miniature(letters, tmp_path):
    values = mini.prepare(letters, STUDY, tmp_path / "cache", given={"distilbert": "minilm"}, pretrain=2)
    assert values["03_distilbert_lora"]["DISTILBERT"] == "minilm" and "EPOCHS" not in values["03_distilbert_lora"]
    assert "pretrained-" in values["04_gpt2_lora"]["GPT2"] and values["04_gpt2_lora"]["EPOCHS"]
    assert not values["appendix_labels"] and not list((tmp_path / "cache").glob("*/mini-distilbert-*"))


def test_too_few_narratives_are_refused_with_their_number(tmp_path):
    table = write_table(tmp_path / "few.csv", others=12)
    with pytest.raises(ValueError, match=r"few\.csv has 12 narratives of companies other than STUDY BANK.*-p DATASET"):
        mini.prepare(table, STUDY, tmp_path / "cache", pretrain=2)


def test_an_unreadable_data_set_is_refused_by_name(tmp_path):
    table = tmp_path / "torn.parquet"
    table.write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"torn\.parquet"):
        mini.prepare(table, STUDY, tmp_path / "cache", pretrain=2)


# --- the shipped ones


@pytest.mark.parametrize("kind", KINDS)
def test_one_miniature_model_of_each_kind_is_shipped_small_and_named_by_its_weights(kind):
    folders = list((ROOT / "mini/checkpoints").glob(f"mini-{kind}-*"))
    assert folders == [mini.shipped_models()[kind]]
    weights = folders[0] / "model.safetensors"
    assert folders[0].name == f"mini-{kind}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
    assert weights.stat().st_size < 3_000_000


def test_without_pretraining_a_mini_run_takes_them_and_only_to_list_it_makes_nothing(tmp_path):
    listed = mini.prepare(None, STUDY, tmp_path / "cache", make=False)
    assert not (tmp_path / "cache").exists()
    assert mini.prepare(None, STUDY, tmp_path / "cache") == listed
    assert Path(listed["01_data"]["DATASET"]).exists()
    assert listed["03_distilbert_lora"]["DISTILBERT"] == str(mini.shipped_models()["distilbert"])
    table = write_table(tmp_path / "own.csv")
    assert mini.prepare(table, STUDY, tmp_path / "cache")["04_gpt2_lora"] == listed["04_gpt2_lora"]


@pytest.mark.slow
def test_the_code_makes_the_shipped_models_byte_for_byte(rebuilt):
    for kind, shipped in mini.shipped_models().items():
        (made,) = rebuilt.glob(f"pretrained-*/mini-{kind}-*")
        assert made.name == shipped.name
        files = sorted(path.name for path in shipped.iterdir())
        assert len(files) >= 4 and files == sorted(path.name for path in made.iterdir())
        assert not [name for name in files if (made / name).read_bytes() != (shipped / name).read_bytes()]
