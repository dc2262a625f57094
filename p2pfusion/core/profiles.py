"""`Profile`: what every block of a network takes on one device for one batch, in seconds and bytes.

It is what a plan for a chain of hops is made of. `core.measuring` finds one on a device; `from_json` reads one that was
written elsewhere, and believes nothing: every field is there, finite and within its limits, or the text is refused with
the field's path. What a *stage* of consecutive blocks takes is summed up here, so that planner and reports agree.

Pure data; knows neither torch nor who will hold which stage. Source: PAPERS.md 3.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import Any, Literal

from p2pfusion.config import BLOCKS_MAX
from p2pfusion.errors import TaskError

ProfileMode = Literal["full", "paper"]
"""`paper`: a copy takes its outputs and parameters and nothing else, and links take no time, as in the paper's planner.
`full`: also what autograd keeps, gradients, optimiser state and links."""
FORMAT = "p2pfusion-profile-1"
TEXT_BYTES_MAX = 1 << 20
"""Of a profile's file: a thousand blocks of nine numbers are a quarter of it."""
NAME_LENGTH_MAX = 256
"""Of a block, and of the line that says where a profile is from: a path within a module is shorter."""
SECONDS_MAX = 1e6
"""Of one block and batch: whatever takes twelve days is a typing mistake."""
BYTES_MAX = 1 << 50
"""Of one block and batch: a petabyte is a typing mistake, and sums of a thousand such stay exact in an int."""
BATCH_MAX = 1 << 24
LEDGER_VECTORS = 5
"""As long as the parameters, that whoever holds blocks keeps beside copies, for averaging: the sealed model, the
residual, the slice a round starts from, a contribution on its way, what a fold makes anew. Snapshots are on disk."""
BACKWARD_GRADIENTS = 2
"""While one copy goes backward a node holds the gradients behind and before an operation, as in `footprint`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """One block and one batch. Seconds of the forward pass, the backward pass, one optimiser step.

    `output_bytes`: the activation that leaves the block, which is what a cut behind it sends; its gradient is as large.
    `kept_bytes`: what autograd keeps from the forward to the backward pass, parameters apart. The other bytes do not
    depend on the batch: parameters, their gradients, the optimiser's state.
    """

    name: str
    forward_s: float
    backward_s: float
    optimiser_s: float
    output_bytes: int
    kept_bytes: int
    parameter_bytes: int
    gradient_bytes: int
    optimiser_bytes: int


_NAMES = tuple(one.name for one in fields(BlockCost))
_SECONDS = tuple(name for name in _NAMES if name.endswith("_s"))
_BYTES = tuple(name for name in _NAMES if name.endswith("_bytes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All blocks in order, for batches of `batch` samples; `origin` says in words where the figures are from.

    Raises `TaskError` for no blocks, more than `BLOCKS_MAX`, a name that comes twice, or a number out of its range.
    """

    batch: int
    origin: str
    blocks: tuple[BlockCost, ...]
    _sums: Mapping[str, list[Any]] = field(init=False, compare=False, repr=False)
    """Running sums by field, since a planner asks for every stage that could be."""
    _outputs: list[int] = field(init=False, compare=False, repr=False)
    """`output_bytes` by place."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.blocks) <= BLOCKS_MAX:
            raise TaskError(f"profile: blocks: {len(self.blocks)} of them; must be 1 to {BLOCKS_MAX}")
        _check_int("batch", self.batch, 1, BATCH_MAX)
        _check_text("origin", self.origin)
        names: dict[str, int] = {}
        for place, block in enumerate(self.blocks):
            where = f"blocks[{place}]"
            _check_text(f"{where}.name", block.name)
            if names.setdefault(block.name, place) != place:
                raise TaskError(f"profile: {where}.name: {block.name!r} is the name of blocks[{names[block.name]}] too")
            for name in _SECONDS:
                _check_seconds(f"{where}.{name}", getattr(block, name))
            for name in _BYTES:
                _check_int(f"{where}.{name}", getattr(block, name), 0, BYTES_MAX)
        object.__setattr__(self, "_outputs", [0, *(block.output_bytes for block in self.blocks)])
        rows = {name: [getattr(block, name) for block in self.blocks] for name in (*_SECONDS, *_BYTES)}
        object.__setattr__(self, "_sums", {name: list(accumulate(row, initial=0)) for name, row in rows.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks, in order."""
        return tuple(block.name for block in self.blocks)

    def forward_s(self, start: int, stop: int) -> float:
        """Seconds of the forward pass of blocks `start` to `stop - 1`."""
        return float(self._sum(start, stop, "forward_s"))

    def backward_s(self, start: int, stop: int) -> float:
        """Seconds of their backward pass and optimiser step: what keeps a relay busy on the way back (PAPERS.md
        3.4)."""
        return float(self._sum(start, stop, "backward_s", "optimiser_s"))

    def optimiser_s(self, start: int, stop: int) -> float:
        """Seconds of their optimiser step, which `backward_s` counts too."""
        return float(self._sum(start, stop, "optimiser_s"))

    def output_bytes(self, stop: int) -> int:
        """What leaves block `stop - 1`; 0 in front of the first, for a batch of inputs never leaves its owner."""
        return self._outputs[stop]

    def memory_bytes(self, start: int, stop: int, copies: int, mode: ProfileMode = "full") -> int:
        """What a device needs that holds blocks `start` to `stop - 1` for so many owners, a batch of each in flight.

        `paper`: `copies * sum(mu_j)`, mu_j being output and parameters (PAPERS.md 3.2). `full`: of every copy what
        autograd keeps, the output on its way, parameters, gradients and optimiser state; and once what averaging needs,
        and, for copies go backward one after the other, the gradients of its largest activation.
        """
        if mode == "paper":
            return copies * int(self._sum(start, stop, "output_bytes", "parameter_bytes"))
        copy = self._sum(start, stop, "kept_bytes", "parameter_bytes", "gradient_bytes", "optimiser_bytes")
        largest = max(self._outputs[start : stop + 1])
        ledger = LEDGER_VECTORS * int(self._sum(start, stop, "parameter_bytes"))
        return copies * (int(copy) + self.output_bytes(stop)) + ledger + BACKWARD_GRADIENTS * largest

    def _sum(self, start: int, stop: int, *names: str) -> Any:
        return sum(max(0, self._sums[name][stop] - self._sums[name][start]) for name in names)


def to_json(profile: Profile) -> str:
    """As a file holds it, indented for people; `from_json` reads it back to an equal profile."""
    head = {"format": FORMAT, "batch": profile.batch, "origin": profile.origin}
    lines = ",\n".join("    " + json.dumps(asdict(block), ensure_ascii=False) for block in profile.blocks)
    return json.dumps(head, ensure_ascii=False, indent=2)[:-2] + f',\n  "blocks": [\n{lines}\n  ]\n}}\n'


def from_json(text: str) -> Profile:
    """Read a profile. Raises `TaskError` with the path of the first field that is wrong."""
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise TaskError(f"profile: the text is longer than {TEXT_BYTES_MAX} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"profile: is not JSON: {error}") from error
    head = _object("", value, ("format", "batch", "origin", "blocks"))
    if head["format"] != FORMAT:
        raise TaskError(f"profile: format: {head['format']!r}; must be {FORMAT!r}")
    if not isinstance(head["blocks"], list):
        raise TaskError("profile: blocks: must be a list")
    found = [_object(f"blocks[{place}]", item, _NAMES) for place, item in enumerate(head["blocks"][: BLOCKS_MAX + 1])]
    return Profile(batch=head["batch"], origin=head["origin"], blocks=tuple(BlockCost(**item) for item in found))


def _object(where: str, value: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    """An object with exactly these fields."""
    place = f"{where}: " if where else ""
    if not isinstance(value, dict):
        raise TaskError(f"profile: {place}must be an object with the fields {', '.join(names)}")
    for name in names:
        if name not in value:
            raise TaskError(f"profile: {place}the field {name!r} is missing")
    for name in value:
        if name not in names:
            raise TaskError(f"profile: {place}there is no field {name!r}; known are {', '.join(names)}")
    return value


def _check_text(where: str, value: Any) -> None:
    if not (isinstance(value, str) and value.isprintable() and 1 <= len(value) <= NAME_LENGTH_MAX):
        raise TaskError(f"profile: {where}: must be 1 to {NAME_LENGTH_MAX} printable characters")


def _check_seconds(where: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= SECONDS_MAX):
        raise TaskError(f"profile: {where}: {value!r}; must be a number from 0 to {SECONDS_MAX:g}")


def _check_int(where: str, value: Any, low: int, high: int) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
        raise TaskError(f"profile: {where}: {value!r}; must be a whole number from {low} to {high}")
