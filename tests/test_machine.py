"""What a notebook computes on: the choice on machines that are not at hand, and what the environment may not change."""

import os
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from helpers.machine import Computing, choose_computing, measured, numerics, settle

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CPUS = {  # what torch.cpu.get_capabilities says, in part; on the right whether bfloat16 is multiplied natively
    "AMD Milan, Intel Haswell": (
        {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False},
        False,
    ),
    "Skylake-X: AVX-512 alone": ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
    "Zen 4: AVX512-BF16": ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
    "Sapphire Rapids: AMX": ({"avx512_f": True, "avx512_bf16": True, "amx_tile": True, "amx_bf16": True}, True),
    "Graviton 3: Arm's bf16": ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
    "Apple M1, older Arm": ({"architecture": "arm64", "neon": True, "bf16": False}, False),
}


def fake(monkeypatch, cpu=None, cuda=False, cuda_bf16=False):
    """Let torch describe another machine."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu or {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda_bf16 or including_emulation
    )


@pytest.mark.parametrize("cpu, native", CPUS.values(), ids=CPUS.keys())
def test_on_a_cpu_bfloat16_is_taken_where_it_is_multiplied_natively(monkeypatch, cpu, native):
    fake(monkeypatch, cpu)
    assert choose_computing("auto", "auto") == (torch.device("cpu"), BF16 if native else FP32)
    assert choose_computing("cpu", "float32").precision == FP32
    assert choose_computing("auto", "bfloat16").precision == BF16  # asked for: slow where it is emulated, but right


@pytest.mark.parametrize("native, precision", [(True, BF16), (False, FP16)], ids=["Ampere", "Turing"])
def test_on_a_card_bfloat16_is_taken_from_ampere_on_and_float16_before(monkeypatch, native, precision):
    fake(monkeypatch, cuda=True, cuda_bf16=native)
    assert choose_computing("auto", "auto") == (torch.device("cuda"), precision)
    assert choose_computing("auto", "float32") == (torch.device("cuda"), FP32)
    assert choose_computing("cpu", "auto").device.type == "cpu"  # a card is there, and not asked for


@pytest.mark.parametrize(
    "device, precision, words",
    [
        ("cuda", "auto", "no CUDA card"),
        ("cpu", "float16", "float16 is for CUDA cards"),
        ("auto", "float16", "-p PRECISION float32"),
        ("mps", "auto", "DEVICE is auto, cpu or cuda"),
        ("cpu", "bf16", "not 'cpu', 'bf16'"),
    ],
)
def test_what_the_machine_does_not_have_is_refused(monkeypatch, device, precision, words):
    fake(monkeypatch)
    with pytest.raises(ValueError, match=words):
        choose_computing(device, precision)


def test_what_a_launcher_left_in_the_environment_is_dropped_and_nothing_else(monkeypatch):
    left = [
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_USE_CPU",
        "WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ]
    for name in left:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ALPHA_RANK", "kept")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    settle()
    assert not [name for name in left if name in os.environ]
    assert os.environ["ALPHA_RANK"] == "kept" and os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    settle()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"  # of several GPUs the first


def test_what_numbers_depend_on_is_recorded(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert numerics(None)["MKL_CBWR"] == "COMPATIBLE" and "device" not in numerics(None)
    found = numerics(Computing(torch.device("cpu"), BF16))
    assert found["precision"] == "bfloat16" and found["threads"] == torch.get_num_threads()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_what_a_block_costs_is_its_own_time_and_the_most_memory_meanwhile(monkeypatch):
    looking, memory_info = threading.Event(), psutil.Process.memory_info
    monkeypatch.setattr(psutil.Process, "memory_info", lambda process: looking.set() or memory_info(process))
    with measured() as before:
        time.sleep(0.05)
    with measured() as cost:
        time.sleep(0.2)
        large = np.ones(40_000_000)  # 305 MB
        for _ in range(2):  # the first look may be on its way still
            looking.clear()
            assert looking.wait(60)
        del large
    assert 0.05 <= before["seconds"] < 60 and 0.2 <= cost["seconds"] < 60
    assert 250 < cost["memory_mb"]["host"] - before["memory_mb"]["host"] < 400
