"""What a notebook computes on: the choice on machines that are not at hand, and what the environment may not change."""

import os
import threading
import time
import types

import numpy as np
import psutil
import pytest
import torch

from helpers import machine
from helpers.files import MB
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


def test_what_a_block_costs_is_its_own_time_and_the_rise_of_memory_over_its_start(monkeypatch):
    looking, memory_info = threading.Event(), psutil.Process.memory_info
    monkeypatch.setattr(psutil.Process, "memory_info", lambda process: looking.set() or memory_info(process))
    before = np.ones(40_000_000)  # 305 MB, of which the block knows nothing
    with measured() as cost:
        time.sleep(0.2)
        large = np.ones(40_000_000)
        for _ in range(2):  # the first look may be on its way still
            looking.clear()
            assert looking.wait(60)
        del large
    assert len(before) and 0.2 <= cost["seconds"] < 60 and 250 < cost["memory_mb"]["host"] < 400
    with measured() as cost:
        del before
    assert cost["memory_mb"]["host"] < 50 and cost["energy_wh"] is None


def test_on_a_card_memory_is_the_rise_of_what_torch_allocates(monkeypatch):
    monkeypatch.setitem(machine.HIGHEST, "cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 500 * MB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1_700 * MB)
    monkeypatch.setattr(machine, "energy_counters", list)
    with measured() as cost:
        pass
    assert cost["memory_mb"]["cuda"] == 1_200
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 600 * MB)  # since it was set back
    assert machine.peak_memory_mb()["cuda"] == 1_700


def processor(folder, number, name, joules, wraps_at=1000):
    """Let a processor's counter stand at so many joules, as Linux writes it."""
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", joules * 10**6), ("max_energy_range_uj", wraps_at * 10**6)):
        (zone / file).write_text(f"{text}\n")


def test_energy_is_what_the_processors_count_and_unknown_where_none_may_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    processor(tmp_path, "0", "package-0", 100)
    processor(tmp_path, "0:0", "core", 100)  # a part of it
    processor(tmp_path, "1", "package-1", 900)
    processor(tmp_path, "2", "psys", 100)  # all of the computer, the packages included
    (tmp_path / "intel-rapl:3").mkdir()  # not to be read
    with measured() as cost:
        for number, joules in (("0", 460), ("0:0", 400), ("1", 260), ("2", 999)):  # the second package's began anew
            processor(tmp_path, number, f"package-{number}", joules)
    assert cost["energy_wh"] == pytest.approx((360 + 360) / 3600)
    monkeypatch.setattr(machine, "POWERCAP", tmp_path / "none")
    with measured() as cost:
        pass
    assert cost["energy_wh"] is None


class Nvml:
    """NVIDIA's library with one card, whose counter stands at `millijoules`; another card is not found."""

    def __init__(self):
        self.millijoules, self.found = 5_000, True

    def nvmlInit_v2(self):
        """Return that all is well."""
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, card):
        """Note whether it is the card that there is."""
        self.found = uuid == b"GPU-1-2-3"
        return 0 if self.found else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, card, spent):
        """Write down what the card has spent, if there is one."""
        spent._obj.value = self.millijoules
        return 0 if self.found else 1


def test_energy_of_the_card_in_use_is_counted_where_nvml_reports_it(monkeypatch, tmp_path):
    nvml, card = Nvml(), types.SimpleNamespace(uuid="1-2-3")
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: nvml)
    (read, _), *more = machine.energy_counters()
    nvml.millijoules += 2_000
    assert not more and read() == 7
    card.uuid = "another"
    assert machine.energy_counters() == []
