"""
Figures 2 and 3 of the paper, the plane of quality and diversity, and likelihood against training time: each as SVG, as
PNG and, with the same numbers, as CSV. At the width of a column; systems differ in colour, marker and line.
"""

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from pooled import LABELS, REAL, Pooled, Results, label, pool, read_results

from modeling_trace.evaluation.report.plots import COLOURS, MARKERS, REAL_COLOUR
from modeling_trace.utils import atomic_write

WIDTH, DPI = 3.3, 300  # inches
STYLE = {
    **{"font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5},
    **{"lines.linewidth": 1.2, "lines.markersize": 4, "axes.spines.top": False, "axes.spines.right": False},
    **{"svg.hashsalt": "trace", "legend.frameon": False, "legend.handlelength": 2.4, "axes.grid": True},
    **{"grid.linewidth": 0.4, "grid.color": "#dddddd", "axes.axisbelow": True},
}
# The same look in every figure, whichever systems it has
SYSTEMS = {
    "gpt2": "plain GPT-2",
    "trace-r": "exact (TRACE-R)",
    "trace-p": "parallel (TRACE-P)",
    "trace": "one pass",
    "ind": "IND",
    "cgd": "CGD",
    "no-recurrence": "no recurrence",
}
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (6, 2)))
SPEED_METRIC, QUALITY, DIVERSITY = "seconds_per_step", "cnd", "self_bleu"
BETTER = {-1: "lower is better", 1: "higher is better"}


class Point(NamedTuple):
    """What is drawn at one place, and written as one line of the CSV file."""

    labels: dict[str, Any]
    metric: str
    found: Pooled


def draw(results: dict[str, Any], folder: str | os.PathLike) -> list[Path]:
    """
    Draw what an experiment has a figure of: `figure2`, `figure3`, `plane` or `likelihood_time`.

    Args:
        results (`dict`): the content of a results.json.
        folder (`str` or `os.PathLike`): where files are written, each whole or not at all; those of the same names are
            replaced.

    Returns:
        `list[Path]`: `.svg`, `.png` and `.csv` for each data set; none for another experiment, or without results.
    """
    found = Results(results, Path(folder))
    figure = FIGURES.get(found.experiment)
    paths: list[Path] = []
    for dataset in found.datasets if figure is not None else ():
        points: list[Point] = []
        with rc_context(STYLE):
            picture = Figure(layout="constrained")
            figure(found, dataset, picture, points)
            if points:
                name = found.experiment + ("" if dataset is None else f"-{dataset}")
                paths += _write(picture, points, Path(folder) / name)
    return paths


# ---- One function for each figure: draws into `picture`, and appends what it draws to `points` ----


def _step_times(results: Results, dataset: str | None, picture: Figure, points: list[Point]) -> None:
    """Figure 2: seconds a training step by segment length."""
    picture.set_size_inches(WIDTH, 2.5)
    axis = picture.subplots()
    _by_segment_length(axis, results, {"dataset": dataset}, SPEED_METRIC, points)
    axis.set(ylabel="seconds a step", xlabel="segment length, tokens")
    axis.set_ylim(bottom=0)
    _legend(picture, axis)


def _segment_lengths(results: Results, dataset: str | None, picture: Figure, points: list[Point]) -> None:
    """Figure 3: diversity and quality by segment length, and by sentences."""
    picture.set_size_inches(WIDTH, 3.7)
    axes = picture.subplots(2, 1, sharex=True)
    for axis, metric in zip(axes, (DIVERSITY, QUALITY), strict=True):
        _by_segment_length(axis, results, {"dataset": dataset}, metric, points)
        axis.set_ylabel(f"{'Self-BLEU' if metric == DIVERSITY else label(metric)}\n({BETTER[-1]})")
    axes[-1].set_xlabel("segment length, tokens")
    _legend(picture, axes[0])


def _by_segment_length(axis, results: Results, where: dict[str, Any], metric: str, points: list[Point]) -> None:
    """A line for each system over the lengths that there are, evenly spaced, sentences last and on their own."""
    drawn: dict[str, list[tuple[Any, Pooled]]] = {}
    for labels, rows in results.groups(**where):
        found = pool(rows, metric)
        if found is not None and labels.get("segment_length") is not None:
            drawn.setdefault(labels["system"], []).append((labels["segment_length"], found))
            points.append(Point(labels, metric, found))
    lengths = {length for own in drawn.values() for length, _ in own}
    order = sorted(one for one in lengths if isinstance(one, int)) + sorted(
        one for one in lengths if not isinstance(one, int)
    )
    for number, (system, own) in enumerate(drawn.items()):
        shift = 0.12 * (number - (len(drawn) - 1) / 2) / max(1, len(drawn) - 1)  # intervals beside each other
        look = _look(system, results)
        for is_number in (True, False):
            part = sorted(
                (order.index(length), found) for length, found in own if isinstance(length, int) is is_number
            )
            xs = [place + shift for place, _ in part]
            name = (
                SYSTEMS.get(system, system) if is_number or not any(isinstance(one, int) for one, _ in own) else None
            )
            _errorbar(axis, xs, [found for _, found in part], label=name, **look)
    axis.set_xticks(range(len(order)), [str(one) for one in order])


def _plane(results: Results, dataset: str | None, picture: Figure, points: list[Point]) -> None:
    """Quality against diversity over both temperatures: a line for each latent temperature of a system."""
    picture.set_size_inches(WIDTH, 3.4)
    axis = picture.subplots()
    where = {"decoding": "plane", "dataset": dataset}
    judged = any(row["metrics"].get("judge") is not None for row in results.rows)
    quality = "judge" if judged else QUALITY
    curves: dict[tuple[str, Any], list[tuple[float, Pooled, Pooled]]] = {}
    for labels, rows in results.groups(**where):
        x, y = (pool(rows, metric) for metric in (DIVERSITY, quality))
        if x is not None and y is not None and labels["system"] != REAL:
            key = labels["system"], labels.get("latent_temperature")
            curves.setdefault(key, []).append((labels.get("temperature") or 0.0, x, y))
            points += [Point(labels, DIVERSITY, x), Point(labels, quality, y)]
    latent = sorted({temperature for _, temperature in curves if temperature is not None})
    named: set[str] = set()
    for (system, temperature), own in curves.items():
        own.sort(key=lambda one: one[0])
        look = _look(system, results)
        look["linestyle"] = LINES[latent.index(temperature)] if temperature in latent else "-"
        name = None if system in named else SYSTEMS.get(system, system)
        named.add(system)
        _errorbar(axis, [x for _, x, _ in own], [y for _, _, y in own], label=name, **look)
    for _, rows in results.groups(**where, system=REAL):  # of as many texts as a point
        x, y = (pool(rows, metric) for metric in (DIVERSITY, quality))
        if x is not None and y is not None:
            star = {"marker": "*", "markersize": 9, "linestyle": "none", "color": REAL_COLOUR, "zorder": 4}
            _errorbar(axis, [x], [y], label=REAL, **star)
            points += [Point(rows[0]["labels"], DIVERSITY, x), Point(rows[0]["labels"], quality, y)]
    if len(latent) > 1:
        for temperature, line in zip(latent, LINES, strict=False):
            axis.plot([], [], color="gray", linestyle=line, label=f"latents at {temperature:g}")
    axis.set(xlabel=f"Self-BLEU ({BETTER[-1]})", ylabel="judge's perplexity a word" if judged else label(quality))
    if judged:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    _legend(picture, axis)


def _likelihood_time(results: Results, dataset: str | None, picture: Figure, points: list[Point]) -> None:
    """
    Nats a held-out text against the time that training took: likelihood and, hollow, the bound that is trained. On a
    processor the time is its own, whatever else it was busy with; on a GPU, that of the clock.
    """
    on_processor = str((results.content.get("machine") or {}).get("device")).startswith("cpu")
    kind = "train_processor" if on_processor else "train"
    picture.set_size_inches(WIDTH, 2.9)
    axis = picture.subplots()
    curves: dict[tuple[str, str], list[tuple[Pooled, Pooled]]] = {}
    for labels, rows in results.groups(dataset=dataset):
        timed = [
            {**row, "metrics": {"train_seconds": (row.get("seconds") or {}).get(kind)}, "intervals": {}}
            for row in rows
        ]
        seconds = pool(timed, "train_seconds")
        if seconds is None or labels.get("system") == REAL:
            continue
        for metric in ("nats", "neg_elbo"):
            found = pool(rows, metric)
            if found is not None:
                curves.setdefault((labels["system"], metric), []).append((seconds, found))
                points += [Point(labels, "train_seconds", seconds), Point(labels, metric, found)]
    for (system, metric), own in curves.items():
        own.sort(key=lambda pair: pair[0].mean)
        look = _look(system, results)
        name: str | None = SYSTEMS.get(system, system)
        if metric == "neg_elbo":
            look |= {"markerfacecolor": "white", "linewidth": 0.7}
            name = None if (system, "nats") in curves else name
        _errorbar(axis, [x for x, _ in own], [y for _, y in own], label=name, **look)
    if any(metric == "neg_elbo" for _, metric in curves):
        axis.plot([], [], color="gray", marker="o", markerfacecolor="white", linewidth=0.7, label="its bound, -ELBO")
    axis.set(
        xlabel=f"{'processor ' * on_processor}seconds of training", ylabel=f"nats a held-out text\n({BETTER[-1]})"
    )
    _legend(picture, axis)


FIGURES: dict[str, Callable[[Results, str | None, Figure, list[Point]], None]] = {
    "figure2": _step_times,
    "figure3": _segment_lengths,
    "plane": _plane,
    "likelihood_time": _likelihood_time,
}


# ---- Parts ----


def _look(system: str, results: Results) -> dict[str, Any]:
    others = [name for name in results.labels("system") if name not in SYSTEMS and name != REAL]
    number = [*SYSTEMS, *others].index(system)
    looks = {"color": COLOURS, "marker": MARKERS, "linestyle": LINES}
    return {name: values[number % len(values)] for name, values in looks.items()}


def _errorbar(axis, xs: Sequence[float] | Sequence[Pooled], ys: Sequence[Pooled], **look) -> None:
    """Means with their intervals; `xs` may have some as well."""
    if not len(ys):
        return
    pooled = isinstance(xs[0], Pooled)
    axis.errorbar(
        [one.mean for one in xs] if pooled else xs,
        [one.mean for one in ys],
        xerr=_errors(xs) if pooled else None,
        yerr=_errors(ys),
        elinewidth=0.7,
        capsize=1.5,
        **look,
    )


def _errors(values: Sequence[Pooled]) -> list[list[float]]:
    pairs = [(one.mean - one.low, one.high - one.mean) for one in values]
    return [[max(0.0, size) if math.isfinite(size) else 0.0 for size in side] for side in zip(*pairs, strict=True)]


def _legend(picture: Figure, axis) -> None:
    """Above the picture, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:  # systems before what line styles mean
        pairs = zip(handles, labels, strict=True)
        handles, labels = zip(*sorted(pairs, key=lambda pair: isinstance(pair[0], Line2D)), strict=True)
        picture.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1.2)


def _write(picture: Figure, points: Sequence[Point], stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in ("svg", "png"):
        path = stem.with_name(f"{stem.name}.{kind}")
        partial = stem.with_name(f".{stem.name}.partial.{kind}")
        try:
            metadata = {"Date": None} if kind == "svg" else None  # the same results give the same file
            picture.savefig(partial, format=kind, dpi=DPI, facecolor="white", metadata=metadata)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        paths.append(path)
    paths.append(stem.with_name(f"{stem.name}.csv"))
    atomic_write(paths[-1], _csv(points))
    return paths


def _csv(points: Sequence[Point]) -> str:
    """A line for each number that is drawn: its labels, mean, interval and, in the order of the seeds, values."""
    labels = [name for name in LABELS if any(name in point.labels for point in points)]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([*labels, "metric", "mean", "low", "high", "interval", "seeds", "values", "texts"])
    for line in dict.fromkeys(_line(point, labels) for point in points):  # two curves may share the seconds
        writer.writerow(line)
    return content.getvalue()


def _line(point: Point, labels: Sequence[str]) -> tuple:
    found = point.found
    if len(found.values) > 1:
        interval = "least and greatest over seeds"
    else:
        interval = "none" if found.interval is None else "as measured"
    own = ["" if point.labels.get(name) is None else point.labels[name] for name in labels]
    lists = (found.seeds, found.values, found.texts)
    return (*own, point.metric, found.mean, found.low, found.high, interval, *(" ".join(map(str, x)) for x in lists))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="folders of results, or folders of such; figures are put there")
    for results in read_results(parser.parse_args(argv).results):
        for path in draw(results.content, results.folder):
            print(path)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


__all__ = ["draw", "main"]
