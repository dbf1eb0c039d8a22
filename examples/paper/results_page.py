"""
The page of what this package obtained beside the paper's numbers, from results.json files alone: nothing on it is
typed, but for the words. `python examples/paper/results_page.py results --output docs/results/paper.md`
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from claims import CLAIMS, Claim
from plots import draw
from pooled import LABELS, REAL, Results, cell, label, number, pool, read_results
from reference import CAPS, Definition, definitions, orderings, published, published_for
from rules import FAILS, HOLDS, MARGIN, OPEN, Part, by_chance

from modeling_trace.evaluation.report.metric_values import METRICS
from modeling_trace.utils import atomic_write

COMPARABLE = "paper"  # the scale at which numbers themselves compare with the published ones
MOST_SHOWN = 6  # parts of a claim; all are in a list to be opened
CLOSE = 0.1  # of a published number

INTRODUCTION = f"""# What this package obtained, beside the paper

Written by `examples/paper/results_page.py` from the files of results that `examples/paper/run.py` left; no number here
was typed. The paper is Hu et al., Findings of EMNLP 2022.

How to read it:

- **12.3 (0.4)** is a mean over seeds of the training, and greatest less least over them. **12.3 ± 0.4** is one seed,
  or what has no seed, with half of its 95 % interval over texts or raters, or of the range over rounds (times of a
  step). *Slanted* numbers are the paper's.
- A system is better than another only where the means differ by more than the larger spread and every seed of one lies
  beyond every seed of the other. By chance alone that happens, in the claimed direction, at most once in 6 times with
  two seeds and once in 20 with three. What has no seed must have intervals that do not meet. One seed tells nothing.
  People's ratings are of the texts of one training of each system.
- "Not higher" and "not lower" hold where the worst seed is within {MARGIN:.0%} of the other's best, or is better.
- Nothing is told where the package's own reports would not: Self-BLEU, Dist, JS and CND of texts of unlike length,
  perplexities that are loose bounds, mutual information at its cap.
- A claim holds where all comparisons that it rests on hold, and does not where more of them are the other way round
  than chance alone would reverse; all else cannot be told here. The scale `smoke` tells nothing. At any scale but
  `{COMPARABLE}` only orders compare with the paper's.
- Where the paper does not say how a number is computed (its -ELBO, with the KL as a sum or as a mean), a claim has to
  come out the same way by both readings. Speed is told on a GPU alone.
"""


def write_page(
    results_folders: Sequence[str | os.PathLike],
    output_md: str | os.PathLike,
    figures: str | os.PathLike | None = None,
) -> Path:
    """
    Write the page, whole or not at all.

    Args:
        results_folders (`Sequence[str or os.PathLike]`): with a results.json, or folders of such.
        output_md (`str` or `os.PathLike`): the page.
        figures (`str` or `os.PathLike`, *optional*): a folder in which figures are drawn anew for the page. Without it
            those are shown that lie beside the results, where these are below the page's own folder.

    Returns:
        `Path`: the page.

    Raises:
        ValueError: in one line, for folders without results, and for two of one experiment, scale and recipe.
    """
    output = Path(output_md)
    found = read_results(results_folders)
    settings: dict[tuple[str, str], dict[str, Results]] = {}
    for results in found:
        evidence = settings.setdefault((results.scale, results.recipe), {})
        if results.experiment in evidence:
            raise ValueError(
                f"`results` must be of one run of {results.experiment} at the scale {results.scale}, got "
                f"'{evidence[results.experiment].folder}' and '{results.folder}'. Leave one out."
            )
        evidence[results.experiment] = results
    lines = [INTRODUCTION, "## What came of the paper's claims", ""]
    for (scale, recipe), evidence in settings.items():
        lines += _verdicts(scale, recipe, evidence)
    for results in found:
        lines += _section(results)
        lines += _figures(results, output, None if figures is None else Path(figures))
    atomic_write(output, "\n".join(lines).rstrip() + "\n")
    return output


# ---- Verdicts ----


def _verdicts(scale: str, recipe: str, evidence: dict[str, Results]) -> list[str]:
    judged = [(claim, *claim.judge(evidence)) for claim in CLAIMS]
    lines = [
        f"### Scale {_plain(scale)}, recipe {_plain(recipe)}",
        "",
        f"From {', '.join(map(_plain, evidence))}. The abstract's claims:",
        "",
    ]
    rows = [
        [claim.title, f"**{outcome}**", *(str(_count(parts, kind)) for kind in (HOLDS, FAILS, OPEN)), claim.rule]
        for claim, outcome, parts in judged
        if claim.in_abstract
    ]
    heads = ["Claim", "Verdict", "comparisons that hold", "reversed", "not told", "Rule"]
    lines += [*_table(heads, rows, right=(2, 3, 4)), ""]
    for kind, heading in ((HOLDS, "Holds"), (FAILS, "Does not hold"), (OPEN, "Cannot be told here")):
        own = [(claim, parts) for claim, outcome, parts in judged if outcome == kind]
        lines += [f"#### {heading}: {len(own)} of {len(judged)}", ""]
        for claim, parts in own:
            lines += _claim(claim, parts)
        lines += [] if own else ["None.", ""]
    return lines


def _count(parts: Iterable[Part], outcome: str) -> int:
    return sum(part.outcome == outcome for part in parts)


def _claim(claim: Claim, parts: Sequence[Part]) -> list[str]:
    """A claim with its rule and its comparisons; all that are reversed are in sight."""
    words = ((HOLDS, "comparisons hold"), (FAILS, "reversed"), (OPEN, "cannot be told"))
    counts = ", ".join(f"{_count(parts, kind)} {word}" for kind, word in words)
    lines = [f"- **{claim.title}** ({claim.place}). {counts}. Rule: {claim.rule}."]
    shown = [part for place, part in enumerate(parts) if part.outcome == FAILS or place < MOST_SHOWN]
    lines += [f"    - {part.outcome}: {_plain(part.text)}" for part in shown]
    if len(shown) < len(parts):
        lines += ["", f'    <details markdown="1"><summary>{len(parts) - len(shown)} more</summary>', ""]
        lines += [f"    - {part.outcome}: {_plain(part.text)}" for part in parts if part not in shown]
        lines += ["", "    </details>"]
    return [*lines, ""]


# ---- Experiments ----


def _section(results: Results) -> list[str]:
    content = results.content
    title = content.get("title") or results.experiment
    lines = [
        f"## {_plain(title)} ({_plain(results.scale)}, recipe {_plain(results.recipe)})",
        "",
        *_origin(content),
        "",
        *_passes(content),
    ]
    if published(results.experiment) and results.scale != COMPARABLE:
        lines += [
            "The paper's numbers are of GPT-2 base on whole texts; those of this scale are of another model and of "
            "shorter texts, so that only orders compare.",
            "",
        ]
    names = _metrics(results)
    main = [name for name in content.get("columns") or names if name in names]
    for dataset in results.datasets:
        if dataset is not None:
            lines += [f"### {_plain(results.experiment)}: {_plain(dataset)}", ""]
        groups = [one for one in results.groups() if one[0].get("dataset") == dataset]
        lines += [*_results_table(results.experiment, groups, main), ""]
        others = [name for name in names if name not in main]
        if others:
            lines += ['<details markdown="1"><summary>All other metrics</summary>', ""]
            lines += [*_results_table(results.experiment, groups, others), "", "</details>", ""]
    return [*lines, *_holes(results), *_orders(results), *_definitions(results)]


def _origin(content: dict[str, Any]) -> list[str]:
    machine = content.get("machine") or {}
    known = {"commit": content.get("commit"), "version": content.get("package_version"), "date": content.get("date")}
    facts = [f"{name} {value}" for name, value in {**known, **machine}.items() if value is not None]
    return [_plain(", ".join(facts)) + ".", "", f"    {' '.join(str(content.get('command', '')).split())}"]


def _passes(content: dict[str, Any]) -> list[str]:
    """How often the models have seen their texts: after many passes they know them by heart."""
    scale = (content.get("configuration") or {}).get("scale") or {}
    found = []
    for name, count in (content.get("training_texts") or {}).items():
        passes = [f"{scale[steps] * scale['batch_size'] / count:.1f}" for steps in ("base_steps", "steps")]
        found.append(f"{_plain(name)} {count:,} ({passes[0]}, then {passes[1]})")
    if not found:
        return []
    return [f"Training texts, and passes of the plain model and of each system over them: {', '.join(found)}.", ""]


def _metrics(results: Results) -> list[str]:
    """All that any row has, in the order of the package's reports."""
    having = {name for row in results.rows for name, value in row["metrics"].items() if value is not None}
    known = list(METRICS)
    return sorted(having, key=lambda name: (known.index(name) if name in known else len(known), name))


def _results_table(experiment: str, groups: list[tuple[dict, list]], metrics: Sequence[str]) -> list[str]:
    """A row for each setting: what was obtained over what was published."""
    systems = [own for own, _ in groups if own.get("system") != REAL]
    different = [name for name in LABELS if len({json.dumps(own.get(name)) for own in systems}) > 1]
    heads = [name for name in LABELS if name == "system" or (name in different and name != "dataset")]
    shown = [name for name in metrics if any(pool(rows, name) is not None for _, rows in groups)]
    table = []
    for labels, rows in groups:
        reference = published_for(experiment, labels)
        done = [row for row in rows if not row.get("failed")]
        cells = []
        for name in shown:
            text = cell(pool(rows, name), name) or ("" if done else "hole")
            cells.append(f"{text}<br>*{reference[name]:g}*" if name in reference else text)
        table.append(
            [_plain(str("" if labels.get(name) is None else labels[name])) for name in heads]
            + cells
            + [_seeds(rows, done), _range([row["texts"] for row in done if row.get("texts") is not None])]
        )
    arrows = {-1: " ↓", 0: "", 1: " ↑"}
    columns = [_plain(label(name)) + (arrows[METRICS[name][1]] if name in METRICS else "") for name in shown]
    titles = [name.replace("_", " ") for name in heads]
    titles += [*columns, "seeds", "texts generated"]
    return _table(titles, table, range(len(heads), len(titles)))


def _seeds(rows: Sequence[dict], done: Sequence[dict]) -> str:
    if all(row["labels"].get("seed") is None for row in rows):
        return "" if done else "0 of 1"
    return str(len(done)) if len(done) == len(rows) else f"{len(done)} of {len(rows)}"


def _range(values: Sequence[int]) -> str:
    if not values:
        return ""
    return f"{min(values):,}" + (f" to {max(values):,}" if max(values) > min(values) else "")


def _holes(results: Results) -> list[str]:
    """What is missing, and why."""
    holes = [f"{_place(row['labels'])}: {row['failed']}" for row in results.rows if row.get("failed")]
    for labels, metrics in published(results.experiment):
        if labels.get("dataset") in (*results.datasets, None) and not results.groups(**labels):
            holes.append(f"{_place(labels)}: published, but not among these results")
        having = [row["metrics"] for _, rows in results.groups(**labels) for row in rows if not row.get("failed")]
        missing = [label(name) for name in metrics if having and all(one.get(name) is None for one in having)]
        if missing:
            holes.append(f"{_place(labels)}: published, but not measured: {', '.join(missing)}")
    datasets = {labels["dataset"] for labels, _ in published(results.experiment) if "dataset" in labels}
    holes += [f"{name}: published, but not among these results" for name in sorted(datasets - set(results.datasets))]
    return ["Holes:", "", *(f"- {_plain(hole)}" for hole in holes), ""] if holes else []


def _place(labels: dict[str, Any]) -> str:
    own = {name: labels[name] for name in (*LABELS, "seed") if labels.get(name) is not None}
    words = [
        f"{name.replace('_', ' ')} {value}" if isinstance(value, (int, float)) else str(value)
        for name, value in own.items()
    ]
    return ", ".join(words) or "all"


def _orders(results: Results) -> list[str]:
    """How many published orders came out the same way, and at the paper's scale how many numbers."""
    parts = orderings(results)
    if not parts:
        return []
    smoke = results.scale == "smoke"
    counts = Counter(OPEN if smoke else part.outcome for part in parts)
    lines = [
        f"Of {len(parts)} published orders of two systems in a metric, {counts[HOLDS]} came out the same way, "
        f"{counts[FAILS]} the other way round, and {counts[OPEN]} cannot be told. Were all systems equal, chance "
        f"alone would give at most {by_chance(parts):.0f} in either direction."
    ]
    reversed_ = [] if smoke else [part for part in parts if part.outcome == FAILS]
    if reversed_:
        lines += ["", '<details markdown="1"><summary>The other way round</summary>', ""]
        lines += [f"- {_plain(part.text)}" for part in reversed_] + ["", "</details>"]
    if results.scale == COMPARABLE:
        near = [
            abs(found.mean - value) <= CLOSE * abs(value)
            for labels, rows in results.groups()
            for metric, value in published_for(results.experiment, labels).items()
            if (found := pool(rows, metric)) is not None
        ]
        lines += ["", f"{sum(near)} of {len(near)} published numbers were met within {CLOSE:.0%}."]
    return [*lines, ""]


def _definitions(results: Results) -> list[str]:
    """
    What was computed by several definitions, and which of them the published number is nearest to. At another scale or
    recipe than the paper's the nearest is an artefact: short texts make every sum too small.
    """
    found = definitions(results) if (results.scale, results.recipe) == (COMPARABLE, "paper") else []
    if not found:
        return []
    lines = [f"### {_plain(results.experiment)}: which definition the published numbers are nearest to", ""]
    for metric in dict.fromkeys(one.metric for one in found):
        lines += _definitions_of(metric, [one for one in found if one.metric == metric])
    return lines


def _definitions_of(metric: str, found: Sequence[Definition]) -> list[str]:
    names = list(dict.fromkeys(name for one in found for name in one.readings))
    rows = []
    for one in found:
        shown = {name: number(pooled.mean, name) for name, pooled in one.readings.items()}
        shown[one.nearest] = f"**{shown[one.nearest]}**"
        rows.append([_plain(_place(one.labels)), f"*{one.published:g}*", *(shown.get(name, "") for name in names)])
    lines = [*_table(["", "published", *(f"`{name}`" for name in names)], rows, range(1, 2 + len(names))), ""]
    cap = CAPS.get(metric)
    if cap in names:
        over = [_place(one.labels) for one in found if cap in one.readings and one.published > one.readings[cap].mean]
        where = f": {_plain('; '.join(over))}" if over else ""
        said = f"{label(metric)} as published is above the most that ours can be, `{cap}`, in {len(over)} of"
        return [*lines, f"{said} {len(found)}{where}.", ""]
    votes = Counter(one.nearest for one in found).most_common()
    said = ", ".join(f"`{name}` in {count} of {len(found)}" for name, count in votes)
    return [*lines, f"Closest to {label(metric)} as published: {said}.", ""]


def _figures(results: Results, output: Path, figures: Path | None) -> list[str]:
    if figures is None:
        pictures = sorted(results.folder.glob("*.png"))
    else:
        recipe = "" if results.recipe == "ours" else f"-{results.recipe}"
        drawn = draw(results.content, figures / f"{results.experiment}-{results.scale}{recipe}")
        pictures = [path for path in drawn if path.suffix == ".png"]
    here = output.resolve().parent
    lines = []
    for path in pictures:
        if path.resolve().is_relative_to(here):
            place = path.resolve().relative_to(here).as_posix()
            data = place.removesuffix(".png") + ".csv"
            lines += [f"![{_plain(path.stem)}](<{place}>)", "", f"The same as [data](<{data}>).", ""]
    return lines


# ---- Markdown ----


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    right = set(right)
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *rows)]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    for letter in "\\`*_[]<>|#~":
        text = text.replace(letter, f"\\{letter}")
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="folders of results, or folders of such")
    parser.add_argument("--output", required=True, help="the page, a Markdown file")
    parser.add_argument("--figures", help="folder for the page's figures, below the page's own")
    arguments = parser.parse_args(argv)
    print(write_page(arguments.results, arguments.output, arguments.figures))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


__all__ = ["main", "write_page"]
