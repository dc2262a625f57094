"""Where this computer can train, and how much memory is free there. It measures and chooses nothing: see `settling`.

torch is loaded when somebody asks. This module knows neither the swarm nor the command line.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from p2pfusion.errors import UsageError

if TYPE_CHECKING:
    from p2pfusion.core.place import Place

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
_M_MMAP_THRESHOLD, LARGE_BYTES = -3, 4 << 20
"""glibc's name for the size from which on a block is a mapping of its own, and what it is set to: layers are larger,
activations of small batches are not."""
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls a processor's own bfloat16 products, on x86 and on Arm. Others compute it in float32, slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to train on, and what has products of bfloat16 of its own."""

    has_cuda: bool = False
    has_mps: bool = False
    cpu_has_bfloat16: bool = False
    cuda_has_bfloat16: bool = False


def machine(device: str, is_auto: bool) -> Machine:
    """This computer, as far as the question needs it. Raises `UsageError` for a named device that is not there."""
    require(device)
    if device == "cpu" and not is_auto:
        return Machine()
    import torch

    has_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    return Machine(
        has_cuda=has_cuda,
        has_mps=device in ("auto", "mps") and torch.backends.mps.is_available(),
        cpu_has_bfloat16=is_auto and bfloat16_in(_text("/proc/cpuinfo")),
        cuda_has_bfloat16=has_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
    )


def require(device: str) -> None:
    """Raise `UsageError` for a named device that does not exist or is not there, with the fix."""
    if device not in get_args(DeviceName):
        raise UsageError(f"device {device!r}: choose one of {', '.join(get_args(DeviceName))}")
    if device not in ("cuda", "mps"):
        return
    import torch

    backend = torch.cuda if device == "cuda" else torch.backends.mps
    if backend.is_available():
        return
    built: Any = torch.backends.cuda if device == "cuda" else torch.backends.mps
    if built.is_built():
        raise UsageError(f"--device {device}: torch finds no such device on this computer; use --device cpu or auto")
    raise UsageError(
        f"--device {device}: this torch was built without it; install one that has it, or use --device cpu"
    )


def places(device: str, there: Machine, *, is_auto: bool) -> tuple[Place, ...]:
    """Places to choose from, float32 first; `is_auto`: the rate is measured anyway, so precision may be as well.

    At a given rate a processor trains in float32, and a CUDA device that was named in bfloat16 where it has it.
    """
    from p2pfusion.core.place import CPU, Place

    slow, lower = [CPU], Place("cpu", "bfloat16")
    if is_auto and there.cpu_has_bfloat16:
        slow.append(lower)
    fast = [Place("mps")] if there.has_mps else []
    if there.has_cuda:
        fast = [Place("cuda"), Place("cuda", "bfloat16")] if there.cuda_has_bfloat16 else [Place("cuda")]
    if device == "cpu" or not fast:
        return tuple(slow)
    if device == "auto":
        return (*fast, *slow)
    return tuple(fast) if is_auto else (fast[-1],)


def bfloat16_in(cpuinfo: str) -> bool:
    """Whether Linux's description of the processor names products of bfloat16."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((value for name, _, value in lines if name.strip().lower() in ("flags", "features")), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def available_in(meminfo: str) -> int | None:
    """Bytes that Linux could give to a new program, of `/proc/meminfo`; None: it does not say."""
    for line in meminfo.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "MemAvailable:" and words[1].isdigit():
            return int(words[1]) * 1024
    return None


def free_bytes(place: Place) -> int | None:
    """Free memory where the network would be; None: nobody says."""
    if place.device == "cpu":
        available = available_in(_text("/proc/meminfo"))
        return _idle_pages_bytes() if available is None else available
    import torch

    if place.device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())


def give_back_large_blocks() -> None:
    """Have the C library return large blocks to the system at once, for the rest of this process.

    glibc keeps what was freed once it has seen blocks of that size come and go, and a relay, whose copies are made and
    dropped every round, then takes a third more than it uses (docs/mp_sl.md). Nothing elsewhere.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def _idle_pages_bytes() -> int | None:
    """Where there is no `/proc`: what some systems say of unused pages, too little rather than too much."""
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
