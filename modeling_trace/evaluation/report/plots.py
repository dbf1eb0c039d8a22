"""The pictures of a report: quality against diversity, KL and mutual information by segment position, latents."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .decoding import setting_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart; black is the real text's, yellow is too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^DvPX"
LINES = ("-", "--", ":", "-.")
REAL_COLOUR = "black"
MIN_TEXTS = 5  # that a segment position must have to be drawn
NUM_SEGMENT_COLOURS = 8
MIN_HALF_WIDTH = 1.0  # of a latent panel: the noise of a collapsed posterior must not fill it
PLANE = {  # metric: (axis label, name in a sentence)
    "judge": ("judge's perplexity per word, log axis", "the judge's perplexity per word"),
    "cnd": ("CND", "CND"),
}


def png(draw: Callable, size: tuple[float, float]) -> str:
    """A picture as base64: `draw` gets Matplotlib axes; size in inches."""
    # Not pyplot: a figure of its own changes no backend of the caller's and needs no closing
    from matplotlib.figure import Figure

    picture = Figure(figsize=size, layout="constrained")
    axis = picture.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    draw(axis)
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=130, facecolor="white", bbox_inches="tight")
    return base64.b64encode(file.getvalue()).decode()


def system_names(report: dict[str, Any]) -> list[str]:
    """The systems in their order, which is that of their colours."""
    return [system["name"] for system in report["systems"]]


class PlanePoint(NamedTuple):
    """A point of the plane: value, low and high of Self-BLEU (x) and of another metric (y)."""

    label: str
    on_envelope: bool
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def curve_points(curve: Sequence[dict[str, Any]], metric: str) -> list[PlanePoint]:
    """
    What the plane shows of one system.

    Args:
        curve (`Sequence[dict]`): a value of the report's `curves`.
        metric (`str`): `"judge"` or `"cnd"`.

    Returns:
        `list[PlanePoint]`: by Self-BLEU, the highest first; without points that lack one of the metrics.
    """
    points = [
        PlanePoint(
            setting_label(point["temperature"], point["latent_temperature"]),
            point["on_envelope"],
            _bounds(point["metrics"], "self_bleu"),
            _bounds(point["metrics"], metric),
        )
        for point in curve
    ]
    return sorted((p for p in points if all(map(math.isfinite, p.x + p.y))), key=lambda p: -p.x[0])


def plot_plane(axis: "Axes", report: dict[str, Any], metric: str) -> None:
    """Self-BLEU against another metric: points and envelope of each system, and the real text."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    drawn, handles = [], []
    for number, name in enumerate(system_names(report)):
        points = curve_points(report["curves"].get(name, ()), metric)
        shown = [point for point in points if point.on_envelope] or points  # without a judge there is no envelope
        look = _look(number)
        mark = {**look, "linestyle": "none"}
        if points:
            handles.append(_errorbar(axis, shown, label=_label(name), markersize=5, **mark))
            others = [(point.x[0], point.y[0]) for point in points if point not in shown]
            axis.plot(*_columns(others), **mark, markersize=3, alpha=0.5, zorder=1)
            drawn += points
        if points and metric == "judge":
            line = [(x, y) for y, x in report["envelopes"][name]["line"]]
            axis.plot(*_columns(line), color=look["color"], linestyle=look["linestyle"])
        # The ends often meet: those of one system are enough
        for point in {shown[0], shown[-1]} if points and len(handles) == 1 else ():
            axis.annotate(
                point.label,
                (point.x[0], point.y[0]),
                xytext=(5, 6),
                textcoords="offset points",
                va="bottom",
                fontsize=8,
                color=COLOURS[number % len(COLOURS)],
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )
    real_point = {
        "temperature": 1.0,
        "latent_temperature": None,
        "on_envelope": False,
        "metrics": report["real_on_curve"],
    }
    real = curve_points([real_point], metric)
    if real:
        star = {"marker": "*", "markersize": 13, "linestyle": "none", "zorder": 4}
        handles.append(_errorbar(axis, real, label="real text", color=REAL_COLOUR, **star))
    values = [point.y[0] for point in drawn + real]
    if metric == "judge":
        axis.set_yscale("log")
        axis.set_ylim(min(values) / 1.6, max(values) * 1.6)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif max(values) > 10:  # at low temperatures; near the real text, unbiased estimates may be below 0
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    label = PLANE[metric][0] + (", log axis above 1" if axis.get_yscale() == "symlog" else "")
    axis.set(xlabel="Self-BLEU (higher: less varied)", ylabel=label)
    _legend(axis, handles)


def plot_positions(axis: "Axes", report: dict[str, Any], kind: str) -> None:
    """`kl` or `mi` of each segment position that enough texts have, a line for each system with latents."""
    handles, caps = [], {}
    for number, name in enumerate(system_names(report)):
        positions = report["positions"].get(name)
        if positions is None:
            continue
        rows = zip(positions["num_texts"], positions[kind], positions["mi_cap"], strict=False)
        rows = [(place, *row[1:]) for place, row in enumerate(rows, 1) if row[0] >= MIN_TEXTS]
        rows = [(place, _number(value), _number(cap)) for place, value, cap in rows]
        places, values = [row[0] for row in rows], [row[1] for row in rows]
        handles += axis.plot(places, values, label=_label(name), markersize=5, **_look(number))
        caps[tuple((row[0], row[2]) for row in rows)] = None  # the same for all systems that cut texts alike
    if kind == "mi":
        lines = [axis.plot(*zip(*cap, strict=True), color="gray", linestyle="--")[0] for cap in caps if cap]
        for line in lines[:1]:
            line.set_label("cap, log N")
            handles.append(line)
    label = {"kl": "KL, nats", "mi": "mutual information, nats"}[kind]
    axis.set(xlabel="segment position", ylabel=label)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.locator_params(axis="x", integer=True)
    _legend(axis, handles)


def plot_latents(axis: "Axes", report: dict[str, Any], name: str) -> None:
    """Posterior means of one system by segment position, over its prior means."""
    from matplotlib import colormaps

    scatter = report["scatter"][name]
    prior = [point for point in scatter["prior"] if all(map(math.isfinite, map(_number, point)))]
    x, y = _columns(prior)
    axis.scatter(x, y, s=7, color="#b0b0b0", linewidths=0, label="prior")
    shown = list(prior)
    last = min(NUM_SEGMENT_COLOURS, max(scatter["segment"], default=1))
    for place in range(1, last + 1):
        points = [p for p, s in zip(scatter["posterior"], scatter["segment"], strict=True) if min(s, last) == place]
        points = [point for point in points if all(map(math.isfinite, map(_number, point)))]
        colour = colormaps["viridis"]((place - 1) / NUM_SEGMENT_COLOURS)
        more = "+" if place == NUM_SEGMENT_COLOURS else ""
        x, y = _columns(points)
        axis.scatter(x, y, s=12, color=colour, alpha=0.75, linewidths=0, label=f"{place}{more}")
        shown += points
    half = max([MIN_HALF_WIDTH, *(1.05 * abs(value) for point in shown for value in point)])
    axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    axis.set_title(_label(name), fontsize=10)
    axis.locator_params(nbins=5)
    axis.tick_params(labelsize=8)
    legend = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncol": 5, "frameon": False}
    axis.legend(fontsize=8, markerscale=1.5, handletextpad=0, columnspacing=0.8, **legend)


def _errorbar(axis, points, **look):
    """Values with their intervals, from [`curve_points`]."""
    x, x_low, x_high = zip(*(point.x for point in points), strict=True)
    y, y_low, y_high = zip(*(point.y for point in points), strict=True)
    errors = [
        [[max(0.0, v - bound) for v, bound in zip(values, low, strict=True)]]
        + [[max(0.0, bound - v) for v, bound in zip(values, high, strict=True)]]
        for values, low, high in ((x, x_low, x_high), (y, y_low, y_high))
    ]
    drawn = axis.errorbar(x, y, xerr=errors[0], yerr=errors[1], elinewidth=0.7, **look)
    for bars in drawn.lines[2]:
        bars.set_alpha(0.6)
    return drawn


def _legend(axis, handles) -> None:
    """Above the picture, where it hides nothing, in as many columns as fit."""
    labels = [handle.get_label() for handle in handles]
    columns = 3 if max(map(len, labels), default=0) <= 12 else 2
    axis.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncol=columns, fontsize=8, frameon=False)


def _bounds(metrics: dict[str, Any], metric: str) -> tuple[float, float, float]:
    """Value, low and high; without an interval, both are the value."""
    cell = metrics.get(metric) or {"value": None, "low": None, "high": None}
    value, low, high = (_number(cell[key]) for key in ("value", "low", "high"))
    return value, low if math.isfinite(low) else value, high if math.isfinite(high) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _columns(points) -> tuple:
    return tuple(zip(*points, strict=True)) or ((), ())


def _look(number: int) -> dict[str, Any]:
    """Of the system with this number, in all pictures."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLOURS) % len(LINES)],
    }


def _label(name: str) -> str:
    """A system's name that fits a legend, with its end; Matplotlib takes what is between dollars for a formula."""
    return (name if len(name) <= 24 else name[:11] + "…" + name[-12:]).replace("$", r"\$")


__all__ = ["curve_points", "plot_latents", "plot_plane", "plot_positions", "png", "system_names"]
