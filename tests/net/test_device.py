"""Which places there are, and what is free there."""

from __future__ import annotations

import pytest
import torch

from p2pfusion.core.place import CPU, Place
from p2pfusion.errors import UsageError
from p2pfusion.net import device as module
from p2pfusion.net.device import Machine, available_in, bfloat16_in, free_bytes, machine, places, require

CPU16, GPU, GPU16, MPS = Place("cpu", "bfloat16"), Place("cuda"), Place("cuda", "bfloat16"), Place("mps")


@pytest.mark.parametrize(
    ("name", "there", "is_auto", "expected"),
    [
        ("auto", Machine(), False, (CPU,)),
        ("cpu", Machine(has_cuda=True, cpu_has_bfloat16=True), False, (CPU,)),
        ("cpu", Machine(cpu_has_bfloat16=True), True, (CPU, CPU16)),
        ("auto", Machine(has_cuda=True), False, (GPU, CPU)),
        ("auto", Machine(has_cuda=True, cuda_has_bfloat16=True), True, (GPU, GPU16, CPU)),
        ("auto", Machine(has_mps=True), False, (MPS, CPU)),
        ("cuda", Machine(has_cuda=True, cuda_has_bfloat16=True), False, (GPU16,)),
        ("cuda", Machine(has_cuda=True), False, (GPU,)),
        ("cuda", Machine(has_cuda=True, cuda_has_bfloat16=True), True, (GPU, GPU16)),
        ("mps", Machine(has_mps=True), True, (MPS,)),
    ],
)
def test_places_to_choose_from(name: str, there: Machine, is_auto: bool, expected: tuple[Place, ...]) -> None:
    assert places(name, there, is_auto=is_auto) == expected


def test_a_plain_processor_never_leaves_float32() -> None:
    assert places("auto", Machine(), is_auto=True) == (CPU,)


@pytest.mark.parametrize(
    ("name", "is_built", "words"),
    [
        ("cuda", False, "--device cuda: this torch was built without it; install one"),
        ("cuda", True, "--device cuda: torch finds no such device on this computer; use --device cpu or auto"),
        ("mps", True, "--device mps: torch finds no such device"),
        ("tpu", True, "choose one of auto, cpu, cuda, mps"),
    ],
)
def test_a_device_that_is_not_there_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, name: str, is_built: bool, words: str
) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    for backend in (torch.backends.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_built", lambda: is_built)
    with pytest.raises(UsageError, match=words):
        require(name)


def test_the_machine_is_asked_only_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine("auto", False) == Machine(has_cuda=True, cuda_has_bfloat16=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a driver that nobody needs takes seconds"))
    assert machine("cpu", False) == Machine()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("flags\t: fpu avx2\nbugs\t: bf16\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_read_off_the_processors_flags(text: str, expected: bool) -> None:
    assert bfloat16_in(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   2048 kB\n", 2 << 20),
        ("MemTotal: 9 kB\n", None),
        ("MemAvailable: lots kB\n", None),
    ],
)
def test_free_memory_is_what_linux_calls_available(text: str, expected: int | None) -> None:
    assert available_in(text) == expected


def test_where_nobody_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_text", lambda path: "")
    monkeypatch.setattr(module.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}[name])
    assert free_bytes(CPU) == 40960

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(module.os, "sysconf", unknown)
    assert free_bytes(CPU) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (123, 456))
    assert free_bytes(GPU) == 123
