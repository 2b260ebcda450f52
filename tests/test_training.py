"""Training on toy checkpoints: what it logs, that it repeats, goes on after a kill and lives with little memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy_models import CPU, LABELS, some_letters, tiny_distilbert, tiny_gpt2, train_adapter
from transformers import AutoModelForMaskedLM, AutoTokenizer

from helpers.files import remove_leftovers
from helpers.machine import Computing
from helpers.models import (
    load_base,
    load_distilbert,
    load_gpt2,
    load_gpt2_in_4_bits,
    load_gpt2_tokenizer,
    predict,
    save_and_reload,
)
from helpers.training import (
    by_epoch,
    fit,
    last_whole_checkpoint,
    logged,
    seal,
    train_for,
    train_once,
    training_arguments,
    training_key,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    return tiny_distilbert(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("models"))


@pytest.fixture
def letters():
    return some_letters()


def test_training_is_logged_by_epoch_and_the_adapter_comes_back_whole(distilbert, letters, tmp_path):
    model, tokenizer, log = train_adapter(distilbert, tmp_path / "checkpoints", letters)
    assert list(log) == ["training loss", "validation loss", "accuracy", "f1", "seconds", "micro-batch"]
    assert log.index.tolist() == [1, 2] and (log["seconds"] > 0).all() and (log["micro-batch"] == 8).all()
    answers = predict(model, tokenizer, letters["text"], 64, CPU)
    fresh = load_distilbert(str(distilbert), LABELS, seed=9)
    size, reloaded = save_and_reload(model, fresh, tmp_path / "adapter")
    assert np.allclose(predict(reloaded, tokenizer, letters["text"], 64, CPU), answers, atol=1e-6)
    assert size > 0
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_same_seed_gives_the_same_training_and_another_does_not(distilbert, letters, tmp_path):
    logs = [train_adapter(distilbert, tmp_path / str(i), letters, seed)[2] for i, seed in enumerate((1, 1, 2))]
    logs = [log.drop(columns="seconds") for log in logs]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


@pytest.mark.parametrize(("name", "bits"), [("distilbert", 32), ("gpt2", 4)])
def test_a_training_in_bfloat16_runs_on_any_cpu_and_learns_what_one_in_float32_learns(
    name, bits, request, letters, tmp_path
):
    def trained(precision):
        computing = Computing(torch.device("cpu"), precision)
        record = {"model": name, "bits": bits, "revision": "", "precision": computing.precision_name}
        record |= {"checkpoint": str(request.getfixturevalue(name))}
        model, tokenizer = load_base(record, LABELS, 0)
        targets, head = (["c_attn"], ["score"]) if name == "gpt2" else (["q_lin"], ["pre_classifier", "classifier"])
        model = get_peft_model(
            model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, modules_to_save=list(head))
        )
        seen = []
        model.get_submodule(f"base_model.model.{head[-1]}").register_forward_hook(
            lambda m, i, out: seen.append(out.dtype)
        )
        arguments = training_arguments(tmp_path / str(precision), 1e-2, 2, 8, 0, computing)
        assert arguments.device.type == "cpu" and arguments.bf16 == (precision == torch.bfloat16)
        training = fit(model, tokenizer, letters, letters, 64, arguments, computing)
        assert seen and set(seen) == {precision}  # in training, in its validation and in the prediction at its end
        del seen[:]
        probability = predict(model, tokenizer, letters["text"], 64, computing)
        assert seen and set(seen) == {precision} and np.array_equal(probability, training.probability)
        return training.history, probability

    (rough, near), (exact, same) = trained(torch.bfloat16), trained(torch.float32)
    assert np.allclose(rough["validation loss"], exact["validation loss"], atol=0.1)
    assert 0 < abs(near - same).max() < 0.2


# --- a training of which the log alone is kept


def trained_once(checkpoint, folder, before, rate=1e-2, epochs=2, number=24):
    """Return the history of a training by train_once; `before` is called before each pass through the model in training."""
    model, tokenizer = load_distilbert(str(checkpoint), LABELS, 0), AutoTokenizer.from_pretrained(checkpoint)
    model.register_forward_pre_hook(lambda m, _, batch: before(batch) if m.training else None, with_kwargs=True)
    texts = some_letters(number)
    return train_once(model, tokenizer, texts, texts, 64, training_arguments(folder, rate, epochs, 8, 0, CPU))


def test_a_finished_training_is_not_repeated_and_leaves_its_log_alone(distilbert, letters, tmp_path):
    model, tokenizer = load_distilbert(str(distilbert), LABELS, 0), AutoTokenizer.from_pretrained(distilbert)
    usual = fit(model, tokenizer, letters, letters, 64, training_arguments(tmp_path / "a", 1e-2, 2, 8, 0, CPU), CPU)
    passes = []
    first = trained_once(distilbert, tmp_path / "b", passes.append)
    assert len(passes) == 6 and first.drop(columns="seconds").equals(usual.history.drop(columns="seconds"))
    assert not list((tmp_path / "b").glob("checkpoint-*")) and (tmp_path / "b/finished.json").exists()
    assert trained_once(distilbert, tmp_path / "b", passes.append).equals(first) and len(passes) == 6


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"rate": 1e-3}, {"epochs": 1}, {"number": 16}], ids=str)
def test_a_log_of_another_training_or_half_a_log_is_never_used(distilbert, tmp_path, change):
    passes = []
    trained_once(distilbert, tmp_path, lambda batch: None)
    for _ in range(2):
        trained_once(distilbert, tmp_path, passes.append, **change)
        assert passes
        del passes[:]
        cut(tmp_path / "finished.json")


def test_of_a_killed_map_the_training_that_ran_goes_on_after_its_last_epoch(distilbert, tmp_path, capsys):
    five = iter([None] * 5)
    with pytest.raises(StopIteration):
        trained_once(distilbert, tmp_path, lambda batch: next(five))
    assert not (tmp_path / "finished.json").exists()
    passes = []
    history = trained_once(distilbert, tmp_path, passes.append)
    assert len(passes) == 3 and history.index.tolist() == [1, 2]
    assert "Going on after step 3, epoch 1" in capsys.readouterr().out


# --- a training of so many steps, of which the weights after the last step count


def trained_for(checkpoint, folder, before, steps):
    """Return the trained weights after so many steps by train_for; `before` is called as in trained_once."""
    model, tokenizer = load_distilbert(str(checkpoint), LABELS, 0), AutoTokenizer.from_pretrained(checkpoint)
    model.register_forward_pre_hook(lambda m, _, batch: before(batch) if m.training else None, with_kwargs=True)
    train_for(model, tokenizer, some_letters(), 64, training_arguments(folder, 1e-3, 1, 8, 0, CPU), steps)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_a_training_of_steps_goes_on_after_its_last_checkpoint_and_leaves_none(distilbert, tmp_path, capsys):
    passes = []
    undisturbed = trained_for(distilbert, tmp_path / "a", passes.append, 104)
    assert len(passes) == 104 and not (tmp_path / "a").exists()
    some = iter([None] * 103)
    with pytest.raises(StopIteration):
        trained_for(distilbert, tmp_path / "b", lambda batch: next(some), 104)
    del passes[:]
    resumed = trained_for(distilbert, tmp_path / "b", passes.append, 104)
    assert len(passes) == 2 and "Going on after step 102" in capsys.readouterr().out
    assert all(torch.equal(weight, undisturbed[name]) for name, weight in resumed.items())
    fewer = trained_for(distilbert, tmp_path / "c", passes.append, 96)  # the schedule ends with the steps
    assert not all(torch.equal(weight, undisturbed[name]) for name, weight in fewer.items())


def test_the_log_keeps_whole_epochs_only():
    log = [
        {"epoch": 1, "loss": 0.7},
        {"epoch": 1, "eval_loss": 0.6, "eval_accuracy": 0.5, "eval_f1": 0.4, "seconds": 3.0, "micro_batch": 8},
        {"epoch": 2, "loss": 0.5},
    ]
    assert by_epoch(log).to_dict("index") == {
        1: {"training loss": 0.7, "validation loss": 0.6, "accuracy": 0.5, "f1": 0.4, "seconds": 3.0, "micro-batch": 8}
    }


# --- a training that is killed goes on after its last whole epoch (promise 16)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:4]
from toy_models import dying_at, some_letters, train_adapter
train_adapter(sys.argv[4], Path(sys.argv[5]), some_letters(), epochs=3, dropout=0.3, before=dying_at(int(sys.argv[6])))
"""


def train_three(checkpoint, folder, before=None, **changes):
    """Train three epochs of three steps, as KILLED does; return the trained weights and the log."""
    given = {"letters": some_letters(), "epochs": 3, "dropout": 0.3} | changes
    model, _, log = train_adapter(checkpoint, folder, before=before, **given)
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}, log


def killed_in_pass(number, checkpoint, folder):
    """Leave in the folder what a training leaves that was killed in that pass through the model."""
    places = [ROOT, ROOT / "notebooks", ROOT / "tests"]
    command = [sys.executable, "-c", KILLED, *places, checkpoint, folder, number]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module")
def undisturbed(distilbert, tmp_path_factory):
    """Return the weights and the log of three epochs, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
    return *train_three(distilbert, folder), folder


@pytest.fixture(scope="module")
def left_by_the_killed(distilbert, tmp_path_factory):
    """Return the folder of a training that was killed in the second step of its second epoch, and a copy of it."""
    folder = tmp_path_factory.mktemp("killed") / "checkpoints"
    killed_in_pass(5, distilbert, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3", "complaint_scores"]
    shutil.copytree(folder, folder.with_name("copy"))
    return folder


@pytest.fixture
def killed(left_by_the_killed):
    """Return the folder as the killed training left it."""
    shutil.rmtree(left_by_the_killed)
    shutil.copytree(left_by_the_killed.with_name("copy"), left_by_the_killed)
    return left_by_the_killed


def same(one, other):
    """Check that two trainings ended with the same weights, bit for bit, and the same log but for the time."""
    assert one[0].keys() == other[0].keys() and len(one[0]) > 8
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1].drop(columns="seconds").equals(other[1].drop(columns="seconds"))


@pytest.mark.slow
def test_a_training_killed_in_epoch_2_goes_on_after_epoch_1_and_ends_with_the_same_weights(
    distilbert, undisturbed, killed, capsys
):
    first = logged(killed / "checkpoint-3")["log_history"][-1]["seconds"]
    passes = []
    resumed = train_three(distilbert, killed, before=passes.append)
    assert "Going on after step 3, epoch 1, whose checkpoint is whole." in capsys.readouterr().out
    assert len(passes) == 6  # the steps of epochs 2 and 3
    same(resumed, undisturbed)
    assert resumed[1]["seconds"].tolist()[0] == first  # epoch 1 took what it took in the run that was killed


def test_a_training_in_four_bits_goes_on_too(gpt2, tmp_path, capsys):
    def trained():
        tokenizer = load_gpt2_tokenizer(str(gpt2))
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_fc"], lora_dropout=0.3)
        model = get_peft_model(load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32), config)
        texts = some_letters()
        log = fit(model, tokenizer, texts, texts, 64, training_arguments(tmp_path, 1e-2, 3, 8, 0, CPU), CPU).history
        return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}, log

    whole = trained()
    for step in (6, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    same(trained(), whole)
    assert "Going on after step 3, epoch 1" in capsys.readouterr().out


def test_a_training_killed_after_its_last_epoch_is_not_done_again(distilbert, undisturbed, capsys):
    passes = []
    again = train_three(distilbert, undisturbed[2], before=passes.append)
    assert passes == [] and "Going on after step 9, epoch 3" in capsys.readouterr().out
    same(again, undisturbed)
    assert again[1].equals(undisturbed[1])


def cut(path):
    """Cut the file's second half off."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Flip one bit in the middle of the file, its size and times kept."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


HURT = {
    "weights cut": ("adapter_model.safetensors", cut),
    "one bit of the optimiser": ("optimizer.pt", flip),
    "random state lost": ("rng_state.pth", Path.unlink),
    "no seal: killed while saving": ("seal.json", Path.unlink),
    "half a seal": ("seal.json", cut),
}


@pytest.mark.slow
@pytest.mark.parametrize("file, hurt", HURT.values(), ids=HURT.keys())
def test_a_checkpoint_that_is_not_whole_is_removed_and_the_one_before_used(
    distilbert, undisturbed, tmp_path, file, hurt, capsys
):
    folder = tmp_path / "checkpoints"
    train_three(distilbert, folder)
    hurt(folder / "checkpoint-9" / file)
    hurt(folder / "checkpoint-6" / file)
    capsys.readouterr()
    same(train_three(distilbert, folder), undisturbed)
    assert "Going on after step 3, epoch 1" in capsys.readouterr().out


def test_a_whole_checkpoint_is_of_no_use_when_the_best_one_before_it_is_damaged(distilbert, undisturbed, tmp_path):
    folder = tmp_path / "checkpoints"
    train_three(distilbert, folder)
    key = json.loads((folder / "checkpoint-9/seal.json").read_text())["key"]
    last, best = folder / "checkpoint-9", folder / "checkpoint-3"
    state = logged(last) | {"best_model_checkpoint": str(best)}  # which was the best hangs on a machine's rounding
    (last / "trainer_state.json").write_text(json.dumps(state))
    (last / "seal.json").write_text(json.dumps(seal(last, key)))
    assert last_whole_checkpoint(folder, key) == last
    flip(best / "adapter_model.safetensors")
    found = last_whole_checkpoint(folder, key)
    assert found is None or logged(found)["best_model_checkpoint"] != str(best)
    same(train_three(distilbert, folder), undisturbed)


@pytest.mark.slow
def test_the_drivers_sweep_takes_a_half_written_seal_and_leaves_whole_checkpoints(killed):
    (killed / "checkpoint-3/.seal.999999999.tmp.json").write_text('{"key"')
    remove_leftovers(killed.parent)
    assert last_whole_checkpoint(killed, json.loads((killed / "checkpoint-3/seal.json").read_text())["key"])


FOREIGN = {
    "another seed": {"seed": 1},
    "another rate": {"rate": 2e-2},
    "more epochs": {"epochs": 4},
    "another dropout": {"dropout": 0.1},
    "another batch": {"batch_size": 12},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_checkpoint_of_another_training_is_never_used(distilbert, killed, change, capsys):
    train_three(distilbert, killed, **change)
    assert "Going on" not in capsys.readouterr().out


def key_of(checkpoint, folder, letters, monkeypatch):
    """Return the key of a training that is not carried out."""
    monkeypatch.setattr(
        "helpers.training.train_whole", lambda trainer, recipe: keys.append(training_key(trainer, recipe)) or [LINE]
    )
    keys = []
    train_adapter(checkpoint, folder, letters)
    return keys[0]


LINE = {"epoch": 1, "loss": 1, "eval_loss": 1, "eval_accuracy": 1, "eval_f1": 1, "seconds": 1, "micro_batch": 1}


def test_the_key_knows_data_frozen_weights_code_and_versions(distilbert, letters, tmp_path, monkeypatch):
    def key(checkpoint=distilbert, rows=letters):
        return key_of(checkpoint, tmp_path / "checkpoints", rows, monkeypatch)

    plain = key()
    assert plain == key()
    assert plain != key(rows=letters.assign(label=1 - letters["label"]))
    assert plain != key(rows=letters.assign(text=letters["text"] + " fee"))
    shutil.copytree(distilbert, tmp_path / "other" / distilbert.name)
    model = AutoModelForMaskedLM.from_pretrained(distilbert)
    model.distilbert.embeddings.word_embeddings.weight.data[0, 0] += 1
    model.save_pretrained(tmp_path / "other" / distilbert.name)
    assert plain != key(tmp_path / "other" / distilbert.name)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda package: "0")
        assert plain != key()
    shutil.copytree(ROOT / "notebooks/helpers", tmp_path / "helpers")
    with monkeypatch.context() as patch:
        patch.setattr("helpers.training.__file__", str(tmp_path / "helpers/training.py"))
        assert plain == key()
        with (tmp_path / "helpers/scores.py").open("a") as file:
            file.write("# a comment\n")
            file.flush()
            assert plain == key()
            file.write("CHANGED = True\n")
        assert plain != key()
    for changed, now in ((torch, ("get_num_threads", lambda: 99)), (torch.backends.cpu, ("get_cpu_capability", str))):
        with monkeypatch.context() as patch:  # the machine is recorded, but does not decide
            patch.setattr(changed, *now)
            assert plain == key()


# --- out of memory (promise 22), simulated: what a card with a small memory would say


def small_memory(letters, after=0):
    """Return a function that raises CUDA's error for a batch of more letters, once so many have passed; it notes sizes."""

    def check(batch):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > letters and len(sizes) > after:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    sizes = check.sizes = []
    return check


def near(one, other):
    """Check that two trainings ended with the same weights but for rounding."""
    for name in one[0]:
        assert torch.allclose(one[0][name], other[0][name], atol=1e-5, rtol=1e-4), name
    assert np.allclose(one[1][["training loss", "f1"]], other[1][["training loss", "f1"]], atol=1e-5)


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_and_the_training_ends_as_it_would_have(distilbert, tmp_path, capsys):
    settings = {"dropout": 0, "letters": some_letters(28)}  # the last step of an epoch has four letters
    large = train_three(distilbert, tmp_path / "large", **settings)
    memory = small_memory(3, after=2)  # the weights have moved by then
    small = train_three(distilbert, tmp_path / "small", before=memory, **settings)
    assert memory.sizes[:5] == [8, 8, 8, 4, 2] and max(memory.sizes[4:]) == 2
    assert "going on with 2 texts at a time" in capsys.readouterr().out
    assert small[1]["micro-batch"].tolist() == [2, 2, 2] and large[1]["micro-batch"].tolist() == [8, 8, 8]
    near(small, large)


def test_steps_of_uneven_passes_weigh_every_letter_alike(gpt2, tmp_path):
    letters = some_letters(22)  # steps of 8, 8 and 6: the last is 4 and 2 at a time

    def trained(memory):
        tokenizer = load_gpt2_tokenizer(str(gpt2))
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id), config)
        model.register_forward_pre_hook(lambda m, _, b: memory(b) if m.training else None, with_kwargs=True)
        arguments = training_arguments(tmp_path / str(len(list(tmp_path.iterdir()))), 1e-3, 2, 8, 0, CPU)
        arguments.max_grad_norm = 0  # clipping would hide a gradient that is too large
        arguments.optim = "sgd"  # and so would Adam
        log = fit(model, tokenizer, letters, letters, 64, arguments, CPU).history
        return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}, log

    near(trained(small_memory(4)), trained(small_memory(8)))


def test_out_of_memory_in_epoch_2_goes_on_after_epoch_1(distilbert, tmp_path, capsys):
    log = train_three(distilbert, tmp_path, before=small_memory(4, after=4))[1]
    assert log["micro-batch"].tolist() == [8, 4, 4]
    said = capsys.readouterr().out
    assert "going on with 4 texts" in said and "Going on after step 3, epoch 1" in said


def test_out_of_memory_with_one_letter_is_an_error_with_a_mend(distilbert, tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match=r"one text at a time \(CUDA out of memory.*-p MAX_TOKENS 256"):
        train_three(distilbert, tmp_path, before=small_memory(0))


@pytest.mark.slow
def test_a_killed_training_of_few_letters_at_a_time_goes_on_with_as_few(distilbert, tmp_path):
    train_three(distilbert, tmp_path, before=small_memory(4))
    for step in (6, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    memory = small_memory(4)
    log = train_three(distilbert, tmp_path, before=memory)[1]
    assert max(memory.sizes) == 4 and log["micro-batch"].tolist() == [4, 4, 4]
