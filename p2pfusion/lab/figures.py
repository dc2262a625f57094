"""Figures of a sweep, as PNG and SVG: what was varied from left to right, mean and range over the seeds.

Each scenario has the figure its question asks for: `PANELS` says which columns are drawn. A partition, and whatever has
nothing varied, is drawn over virtual time instead. Where devices trained slices, a panel below shows how much of the
model was trained: by the end, or round by round. Colours are those of Okabe and Ito, which colour-blind people can tell
apart; markers differ too. matplotlib (extra `plot`) is imported only here, and only when something is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from p2pfusion.lab.curves import Curve, Spell
from p2pfusion.lab.growth import COVERED, Growth
from p2pfusion.lab.knobs import KNOBS, Value
from p2pfusion.lab.sweeps import Point, Spread, setting_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, Color Universal Design (2008); yellow is left out, it is too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES_MAX = len(COLOURS)
"""Lines of one panel; more could not be told apart. The CSV has them all."""
PANEL_INCHES = (6.4, 2.7)
DPI = 150
LOG_FROM = 4.0
"""Values that span more than this factor are spaced by their logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A column as a panel shows it: `value * scale`, on an axis from 0 unless it is a share."""

    column: str
    label: str
    scale: float = 1.0
    note: str = ""
    """What a line is called if the panel has more than one quantity."""


ACCURACY = Quantity(column="accuracy", label="final accuracy (%)", scale=100.0)
LOSS = Quantity(column="training_loss", label="final training loss")
KEPT = Quantity(column="kept_share", label="contributions in\nthe final chain (%)", scale=100.0)
ROUND = Quantity(column="round_median_s", label="median round (virtual s)")
TRAFFIC = Quantity(column="bytes_per_node_round", label="sent (kB / node / round)", scale=1e-3)
FAST = Quantity(column="round_median_s", label="median round (virtual s)", note="the others")
SLOW = Quantity(column="slow_round_median_s", label="median round (virtual s)", note="the slow node")
TRAINED = tuple(
    Quantity(column=column, label="trained by the end (%)", scale=100.0, note=name) for name, column in COVERED.items()
)
PAIRS = Quantity(column=COVERED["pairs"], label="pairs trained (%)", scale=100.0)
"""Instead of all three, where there is a line for each of several settings."""

PANELS: Mapping[str, tuple[tuple[Quantity, ...], ...]] = MappingProxyType(
    {
        "churn": ((ACCURACY,), (KEPT,)),
        "latency": ((ROUND,), (ACCURACY,)),
        "stragglers": ((FAST, SLOW), (ACCURACY,)),
        "scale": ((ROUND,), (TRAFFIC,)),
        "partition": ((ACCURACY,), (KEPT,)),
    }
)
"""Scenario -> panels from top to bottom -> what is drawn in one."""
OTHERWISE = ((ACCURACY,), (ROUND,))
BELOW: Mapping[str, str] = MappingProxyType(
    {"churn": "half_life", "latency": "latency", "stragglers": "slow", "scale": "nodes", "partition": "apart"}
)
"""Scenario -> the knob that stands below its figure if it was varied; else the first that was."""
OVER_TIME = ("partition",)
"""Scenarios whose question is what happens when, whatever is varied."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401 - to see whether it is there
    except ImportError:
        return False
    return True


def draw(
    name: str,
    title: str,
    points: Sequence[Point],
    curves: Sequence[Curve],
    growths: Sequence[Growth],
    files: Sequence[Path],
) -> None:
    """The figure of a sweep, written to each of the files; their endings say in which format. Raises `OSError`.

    The same sweep gives the same file.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "p2pfusion", "font.size": 10}):
        made = figure(name, title, points, curves, growths)
        for file in files:
            made.savefig(file, dpi=DPI, metadata={"Date": None} if file.suffix == ".svg" else {})


def figure(
    name: str, title: str, points: Sequence[Point], curves: Sequence[Curve], growths: Sequence[Growth] = ()
) -> Figure:
    """The figure of the scenario of that name; `growths` are empty where nobody sliced."""
    from matplotlib.figure import Figure

    varied = sorted(points[0].settings, key=lambda knob: knob != BELOW.get(name))
    if varied and name not in OVER_TIME:
        made = _over_values(Figure, name, points, varied, is_sliced=bool(growths))
    else:
        made = _over_time(Figure, curves, () if varied else growths)  # of all settings together they say nothing
    made.suptitle(title, fontsize=11)
    return made


# -- over what was varied ---------------------------------------------------------------------------------------------


def _over_values(
    make: type[Figure], name: str, points: Sequence[Point], varied: Sequence[str], *, is_sliced: bool
) -> Figure:
    """One panel below the other, what was varied first from left to right, a line for each of the rest."""
    panels = [_measured(panel, points) for panel in PANELS.get(name, OTHERWISE)]
    panels += [TRAINED if len(varied) == 1 else (PAIRS,)] if is_sliced else []
    width, height = PANEL_INCHES
    figure = make(figsize=(width, height * len(panels) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    values = _in_order([point.settings[varied[0]] for point in points])
    places = dict(zip(values, _places(values), strict=True))
    lines: dict[str, list[Point]] = {}
    for point in points:
        texts = setting_texts(point.settings)
        rest = ", ".join(f"{KNOBS[one].label} {texts[one]}" for one in varied[1:])
        lines.setdefault(rest, []).append(point)
    for panel, ax in zip(panels, axes, strict=True):
        _panel(ax, panel, dict(list(lines.items())[:LINES_MAX]), places, varied[0])
    if (seeds := max(len(point.runs) for point in points)) > 1:
        _note(axes[0], f"mean of {seeds} seeds; bars: least to greatest")
    figure.align_ylabels(axes)
    axes[-1].set_xticks(list(places.values()), [_tick(varied[0], value, points) for value in values])
    margin = 0.06 * (max(places.values()) - min(places.values()))
    axes[-1].set_xlim(min(places.values()) - margin, max(places.values()) + margin)
    axes[-1].set_xlabel(KNOBS[varied[0]].label)
    return figure


def _measured(panel: tuple[Quantity, ...], points: Sequence[Point]) -> tuple[Quantity, ...]:
    """The panel, with the training loss where nobody measured an accuracy."""
    unmeasured = all(point.spread("accuracy") is None for point in points)
    return tuple(LOSS if quantity is ACCURACY and unmeasured else quantity for quantity in panel)


def _panel(
    ax: Axes,
    panel: Sequence[Quantity],
    lines: Mapping[str, Sequence[Point]],
    places: Mapping[Value, float],
    first: str,
) -> None:
    """The lines of a panel, each with a bar from the least to the greatest of its seeds."""
    number = 0
    for rest, points in lines.items():
        for quantity in panel:
            spreads = {places[p.settings[first]]: s for p in points if (s := p.spread(quantity.column))}
            if spreads:
                label = ", ".join(text for text in (quantity.note, rest) if text)
                _line(ax, spreads, quantity.scale, number, label)
            number += 1
    _finish(ax, panel[0].label, has_legend=number > 1)


def _line(ax: Axes, spreads: Mapping[float, Spread], scale: float, number: int, label: str) -> None:
    xs = sorted(spreads)
    means = [spreads[x].mean * scale for x in xs]
    below = [max(0.0, (spreads[x].mean - spreads[x].least) * scale) for x in xs]
    above = [max(0.0, (spreads[x].greatest - spreads[x].mean) * scale) for x in xs]
    look = number % LINES_MAX
    ax.errorbar(
        xs, means, yerr=[below, above], color=COLOURS[look], marker=MARKERS[look], label=label, capsize=4,
        linewidth=1.6, markersize=6, zorder=3, clip_on=False,
    )  # fmt: skip


def _in_order(values: Sequence[Value]) -> list[Value]:
    """Without repetition; numbers by size, names as they came."""
    unique = list(dict.fromkeys(values))
    return unique if any(isinstance(value, str) for value in unique) else sorted(unique, key=float)


def _places(values: Sequence[Value]) -> list[float]:
    """Where on the axis each value stands: by its size or its logarithm; infinity one step beyond the last."""
    if any(isinstance(value, str) for value in values):
        return [float(index) for index in range(len(values))]
    finite = [float(value) for value in values if math.isfinite(float(value))]
    if finite and min(finite) > 0 and max(finite) / min(finite) > LOG_FROM:
        finite = [math.log(value) for value in finite]
    step = (finite[-1] - finite[0]) / (len(finite) - 1) if len(finite) > 1 else 1.0
    return finite + [(finite[-1] if finite else 0.0) + step] * (len(values) - len(finite))


def _tick(name: str, value: Value, points: Sequence[Point]) -> str:
    """The value with a thin gap before its unit, and how many runs failed, if any; infinite is only a half-life."""
    text = KNOBS[name].text(value)
    text = "∞ (none fails)" if text == "inf" else re.sub(r"(?<=\d)(?=[a-zA-Z%])", "\u2009", text)
    runs = [run for point in points if point.settings[name] == value for run in point.runs]
    failed = sum(not run.is_good for run in runs)
    return f"{text}\n{failed} of {len(runs)} runs failed" if failed else text


# -- over virtual time ------------------------------------------------------------------------------------------------


def _over_time(make: type[Figure], curves: Sequence[Curve], growths: Sequence[Growth]) -> Figure:
    """The accuracy (or the loss, where none was measured) of each group of nodes; below it what was trained."""
    width, height = PANEL_INCHES
    parts = [1.6, 0.9] if growths else [1.6]
    figure = make(figsize=(width, height * sum(parts)), layout="constrained")
    axes = figure.subplots(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    _learnt(axes[0], [curve for curve in curves if curve.times_s][:LINES_MAX])
    if growths:
        _grown(axes[1], growths)
        figure.align_ylabels(axes)
    return figure


def _learnt(ax: Axes, shown: Sequence[Curve]) -> None:
    is_share = bool(shown) and shown[0].is_accuracy
    for number, curve in enumerate(shown):
        _band(ax, curve.times_s, curve, 100.0 if is_share else 1.0, number)
    for spell in shown[0].spells if shown else ():
        _shade(ax, spell)
    ax.set_xlabel("virtual time (s)")
    ax.set_xlim(left=0)
    label = "accuracy of the sealed model (%)" if is_share else "training loss"
    _finish(ax, label, has_legend=len(shown) > 1 or any(curve.spells for curve in shown))
    _note(ax, "line: mean over nodes and seeds; band: least to greatest")


def _grown(ax: Axes, growths: Sequence[Growth]) -> None:
    for number, growth in enumerate(growths):
        _band(ax, range(1, len(growth.means) + 1), growth, 100.0, number)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("round")
    _finish(ax, "trained so far (%)", has_legend=False)
    ax.legend(frameon=False, fontsize=9, ncols=len(growths), loc="lower right", bbox_to_anchor=(1.0, 0.98))


def _band(ax: Axes, xs: Sequence[float], line: Curve | Growth, scale: float, number: int) -> None:
    means, least, greatest = ([value * scale for value in row] for row in (line.means, line.least, line.greatest))
    ax.plot(xs, means, color=COLOURS[number], marker=MARKERS[number], markevery=0.1, markersize=5, linewidth=1.6,
            label=line.label, zorder=3, clip_on=False)  # fmt: skip
    ax.fill_between(xs, least, greatest, color=COLOURS[number], alpha=0.18, linewidth=0, zorder=2)


def _shade(ax: Axes, spell: Spell) -> None:
    ax.axvspan(spell.from_s, spell.to_s, color="#999999", alpha=0.2, linewidth=0, zorder=1, label=spell.label)


def _finish(ax: Axes, label: str, *, has_legend: bool) -> None:
    ax.set_ylabel(label)
    low, high = ax.get_ylim()
    if "%" not in label:
        ax.set_ylim(0, high * 1.05)
    elif "trained" in label:
        ax.set_ylim(0, 101)
    else:
        ax.set_ylim(max(0.0, min(low - 1, high - 5)), min(101.0, high + 1))
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if has_legend:
        ax.legend(frameon=False, fontsize=9)


def _note(ax: Axes, text: str) -> None:
    ax.annotate(text, (1.0, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=8, color="#555555")
