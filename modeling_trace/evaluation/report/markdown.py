"""The report of an evaluation as Markdown, and the words that all its forms share."""

import math
from typing import Any

from ..words import describe_words
from .decoding import DESCRIPTIONS, setting_label
from .settings import METHOD_NAMES


def markdown_report(report: dict[str, Any]) -> str:
    """The tables, what they do not show, and random texts, as Markdown."""
    settings, data = report["settings"], report["data"]
    names = [system["name"] for system in report["systems"]]
    lines = [f"# {'Comparison' if len(names) > 1 else 'Evaluation'} of {', '.join(names)}", "", conditions(report), ""]
    lines += ["## What does not hold", ""]
    lines += [f"- {finding}" for finding in report["findings"]] + [""]
    for table in report["tables"]:
        lines += [f"## {table['title']}", "", *_markdown_table(table), ""]
        if table["caption"]:
            lines += [table["caption"], ""]
    lines += [how_to_read(settings), ""]
    for title, heads, rows in (envelope_settings(report), plane_points(report)):
        if rows:
            lines += [f"## {title}", "", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
            lines += [f"| {' | '.join(map(_plain, row))} |" for row in rows] + [""]
    lines += ["## Texts drawn at random", ""]
    for decoding, systems in report["samples"].items():
        if decoding:
            lines += [f"### {DESCRIPTIONS[decoding]}", ""]
        for name, rows in systems.items():
            lines += [f"**{_plain(name)}**", ""]
            for number, row in enumerate(rows, 1):
                prompt = f"[{_plain(row['prompt'])}] " if row["prompt"] is not None else ""
                lines.append(f"{number}. {prompt}{_plain(row['text']) or '(empty)'}")
            lines.append("")
    lines += [
        "## Systems",
        "",
        "| Name | Path | Dynamics | Posterior norm | Segments | Backbone |",
        "| --- " * 6 + "|",
    ]
    for system in report["systems"]:
        cells = ("name", "path", "latent_dynamics", "posterior_norm", "segmenter", "backbone")
        lines.append("| " + " | ".join(_plain(str(system[cell])) for cell in cells) + " |")
    if data["conditional"]:
        lines += ["", "Each text was generated on the prompt of a real one."]
    return "\n".join(lines).rstrip() + "\n"


def conditions(report: dict[str, Any]) -> str:
    """What was measured on how much, in a few sentences."""
    settings, data = report["settings"], report["data"]
    seeds = settings["seeds"]
    sentences = [
        f"Data: {data['name']}, {data['num_real']} real texts beside as many of each system for each decoding",
        f" and seed ({', '.join(map(str, seeds))})" if len(seeds) > 1 else "",
        f"; {data['num_references']} other real texts as references" if data["num_references"] else "",
        f"; all texts cut after {data['max_words']} words" if data["max_words"] else "",
        f". Likelihood and representation: {settings['num_likelihood_texts']} real texts, {settings['num_samples']} "
        f"latent samples each, by {METHOD_NAMES[settings['likelihood_method']]}.",
    ]
    sentences.append(f" Words are {describe_words(settings['word_tokenizer'])}.")
    if settings["judge"] is not None:
        sentences.append(f" Judge: {settings['judge']}, on {settings['num_judge_texts']} texts.")
    return "".join(sentences)


def how_to_read(settings: dict[str, Any]) -> str:
    """Of intervals and marks."""
    return (
        f"± is half of the {settings['confidence']:.0%} interval over texts. **Bold** is best and <u>underlined</u> "
        "second best, only where the system differs from every other one (delete-group jackknife, Holm's correction "
        f"over the table, p < {1 - settings['confidence']:.2g}); the real texts are not among the systems. Diversity "
        "beyond that of real text is not better, it is noise; a judge's perplexity below that of real text is dull "
        "text. Definitions: docs/explanation/metrics.md."
    )


def envelope_settings(report: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Title, heads and rows: which settings each system's envelope uses where the systems are compared."""
    settings = {name: chosen["settings"] for name, chosen in report["envelopes"].items() if chosen["settings"]}
    heads = ["System", *(f"at {level['perplexity']:.0f}" for level in next(iter(settings.values()), []))]
    rows = [[name, *map(_setting, chosen)] for name, chosen in settings.items()]
    return "Settings of the envelopes at equal quality (T of the tokens, τ of the latents)", heads, rows


def plane_points(report: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Title, heads and rows: all points over both temperatures."""
    metrics = (("judge", 0), ("self_bleu", 2), ("cnd", 3))
    rows = [
        [name, setting_label(point["temperature"], point["latent_temperature"])]
        + [format_cell(point["metrics"].get(metric), decimals) for metric, decimals in metrics]
        + ["yes" if point["on_envelope"] else ""]
        for name, curve in report["curves"].items()
        for point in curve
    ]
    heads = ["System", "Setting", "judge PPL/word", "SB ↓", "CND ↓", "On the envelope"]
    return f"Points over the temperatures, N = {report['settings']['num_curve_texts']} texts each", heads, rows


def format_cell(cell: dict[str, Any] | None, decimals: int) -> str:
    """A value with half the width of its interval."""
    if cell is None or cell["value"] is None or not math.isfinite(cell["value"]):
        return "-"
    sign = "+" if cell.get("signed") else ""
    text = f"{cell['value']:{sign}.{decimals}f}"
    if cell["low"] is not None and math.isfinite(cell["high"] - cell["low"]):
        text += f" ± {(cell['high'] - cell['low']) / 2:.{decimals}f}"
    return text


def _setting(level: dict[str, Any]) -> str:
    low, high = level["temperatures"]
    return setting_label(low, level["latent_temperature"], to=high)


def _markdown_table(table: dict[str, Any]) -> list[str]:
    heads = [f"{column['label']}<br>N = {column['num_texts']}" for column in table["columns"]]
    lines = [f"| System | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for row in table["rows"]:
        cells = []
        for cell, column in zip(row["cells"], table["columns"], strict=True):
            text = format_cell(cell, column["decimals"])
            mark = (cell or {}).get("mark")
            value, half = (text.split(" ± ") + [""])[:2]
            value = {"best": f"**{value}**", "second": f"<u>{value}</u>", "differs": f"{value} \\*"}.get(mark, value)
            cells.append(f"{value} ± {half}" if half else value)
        lines.append(f"| {_plain(row['name'])} | {' | '.join(cells)} |")
    return lines


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
    for letter in "\\`*_[]<>|#~":
        text = text.replace(letter, f"\\{letter}")
    return text


__all__ = ["conditions", "envelope_settings", "format_cell", "how_to_read", "markdown_report", "plane_points"]
