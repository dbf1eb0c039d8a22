"""The report of an evaluation as one HTML page that needs nothing else: no network, no scripts, pictures inside it."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from .decoding import DESCRIPTIONS
from .markdown import conditions, envelope_settings, format_cell, how_to_read, plane_points
from .plots import (
    MIN_HALF_WIDTH,
    MIN_TEXTS,
    PLANE,
    curve_points,
    plot_latents,
    plot_plane,
    plot_positions,
    png,
    system_names,
)
from .tables import REAL

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #5f6873; --page: #fff; --panel: #f4f6f8; --line: #d5dae0;
  --alarm: #b54708; --alarm-page: #fff7ed; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4b0; --page: #14171b; --panel: #1e2329;
  --line: #3a424c; --alarm: #f5a35c; --alarm-page: #2a2018; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.3rem; }
h3, .title { margin: 1.6rem 0 .4rem; font-size: 1.05rem; font-weight: 600; }
h4 { margin: 0 0 .3rem; font-size: 1rem; }
p, li { max-width: 48rem; } .note { color: var(--soft); font-size: .9rem; }
.findings { border-left: .3rem solid var(--alarm); background: var(--alarm-page); padding: .6rem 1rem; }
.findings h2 { margin: 0; } .findings li { margin: .35rem 0; } ol, ul { padding-left: 1.4rem; }
figure { margin: 0; } .scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem;
  overflow-wrap: normal; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; vertical-align: bottom; background: var(--panel); }
th:first-child { position: sticky; left: 0; text-align: left; font-weight: 600; background: var(--panel); }
.words th, .words td { text-align: left; white-space: normal; min-width: 6rem; overflow-wrap: anywhere; }
.size { display: block; font-weight: 400; font-size: .8rem; color: var(--soft); }
.half { font-size: .8rem; color: var(--soft); } strong { font-weight: 700; } u { text-underline-offset: .2em; }
tr.real > * { background: var(--panel); font-style: italic; border-bottom: 2px solid var(--soft); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.card { background: #fff; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; text-align: center; }
.card img { max-width: 100%; height: auto; vertical-align: middle; }
.sample { background: var(--panel); border-radius: .4rem; padding: .7rem 1rem; }
.prompt { color: var(--soft); font-style: italic; }
"""


def html_page(report: dict[str, Any]) -> str:
    """
    The page for the browser.

    Args:
        report (`dict`): from [`compare`], also as read back from its JSON; `texts` is not looked at.

    Returns:
        `str`: HTML, with its style and pictures.
    """
    names = system_names(report)
    title = f"{'Comparison' if len(names) > 1 else 'Evaluation'} of {', '.join(names)}"
    how = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", _text(how_to_read(report["settings"])))
    how = re.sub(r"&lt;u&gt;(.+?)&lt;/u&gt;", r"<u>\1</u>", how)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{_text(title)}</h1>\n<p>{_text(conditions(report))}</p>",
        '<section class="findings">\n<h2>What does not hold</h2>\n<ul>',
        *(f"<li>{_text(finding)}</li>" for finding in report["findings"]),
        "</ul>\n</section>\n<section>\n<h2>Metrics</h2>",
        *map(_table, report["tables"]),
        f'<p class="note">{how}</p>\n</section>',
        _plane(report),
        _latents(report),
        _samples(report),
        _systems(report["systems"]),
        "</main>\n</body>\n</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


# ---- Tables and texts ----


def _table(table: dict[str, Any]) -> str:
    heads = "".join(
        f'<th scope="col">{_text(column["label"])} <span class="size">N = {column["num_texts"]}</span></th>'
        for column in table["columns"]
    )
    lines = [f'<tr><th scope="col">System</th>{heads}</tr>', "</thead>\n<tbody>"]
    for row in table["rows"]:
        cells = zip(row["cells"], table["columns"], strict=True)
        cells = "".join(f"<td>{_cell(cell, column['decimals'])}</td>" for cell, column in cells)
        kind = ' class="real"' if row["name"] == REAL else ""
        lines.append(f'<tr{kind}><th scope="row">{_text(row["name"])}</th>{cells}</tr>')
    note = f'\n<p class="note">{_text(table["caption"])}</p>' if table["caption"] else ""
    return _scrolling(table["title"], lines) + note


def _cell(cell: dict[str, Any] | None, decimals: int) -> str:
    value, _, half = format_cell(cell, decimals).partition(" ± ")
    marks = {
        "best": '<strong title="best">{}</strong>',
        "second": '<u title="second best">{}</u>',
        "differs": '{}<span title="differs">*</span>',
    }
    value = marks.get((cell or {}).get("mark"), "{}").format(value)
    return f'{value} <span class="half">± {half}</span>' if half else value


def _scrolling(title: str, lines: Sequence[str], kind: str = "") -> str:
    """A table, from its head on, in a box of its own that scrolls sideways, by keys as well."""
    title = _text(title)
    return (
        f'<figure>\n<figcaption class="title">{title}</figcaption>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">\n<table{kind}>\n<thead>\n'
        + "\n".join(lines)
        + "\n</tbody>\n</table>\n</div>\n</figure>"
    )


def _words_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f'<th scope="col">{_text(head)}</th>' for head in heads) + "</tr>\n</thead>\n<tbody>"]
    for name, *cells in rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{_text(name)}</th>{cells}</tr>')
    return _scrolling(title, lines, ' class="words"')


def _samples(report: dict[str, Any]) -> str:
    lines = ["<section>\n<h2>Texts drawn at random</h2>"]
    if report["data"]["conditional"]:
        lines.append('<p class="note">Each text was generated on the prompt of a real one.</p>')
    for decoding, systems in report["samples"].items():
        if decoding:
            lines.append(f"<h3>{_text(DESCRIPTIONS.get(decoding, decoding))}</h3>")
        lines.append('<div class="grid">')
        for name, rows in systems.items():
            lines.append(f'<article class="sample">\n<h4>{_text(name)}</h4>\n<ol>')
            for row in rows:
                prompt = "" if row["prompt"] is None else f'<span class="prompt">[{_text(row["prompt"])}]</span> '
                lines.append(f'<li dir="auto">{prompt}{_text(row["text"]) or "(empty)"}</li>')
            lines.append("</ol>\n</article>")
        lines.append("</div>")
    return "\n".join([*lines, "</section>"])


def _systems(systems: Sequence[dict[str, Any]]) -> str:
    columns = {
        "path": "Path",
        "backbone": "Backbone",
        "latent_dynamics": "Dynamics",
        "latent_size": "Latent size",
        "posterior_norm": "Posterior norm",
        "segmenter": "Segments",
    }
    rows = []
    for system in systems:
        # A plain model's configuration still has the fields of latents
        without = ("latent_size", "posterior_norm") if system["latent_dynamics"] == "none" else ()
        rows.append([system["name"], *("-" if column in without else system[column] for column in columns)])
    table = _words_table("Models", ["Name", *columns.values()], rows)
    return f"<section>\n<h2>Systems</h2>\n{table}\n</section>"


def _text(value: Any) -> str:
    """Escaped, on one line, without what a page may not hold."""
    text = " ".join(str(value).split())
    text = "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    return html.escape(text)


# ---- Pictures ----


def _plane(report: dict[str, Any]) -> str:
    settings, pictures = report["settings"], []
    for metric, (_, label) in PLANE.items():
        if any(len(curve_points(curve, metric)) for curve in report["curves"].values()):
            alt = f"Self-BLEU against {label}: points over both temperatures and their envelope for each of "
            alt += f"{', '.join(report['curves'])}, and the real text as a star."
            pictures.append(_picture(lambda axis, metric=metric: plot_plane(axis, report, metric), alt))
    if not pictures:
        return ""
    caption = (
        "Sampling from the whole vocabulary at several temperatures, of the tokens (T) and of the latents (τ). A line "
        "is a system's envelope, the lowest of its curves over T, one for each τ; large marks are settings on it "
        "(written at the ends of the first one), small marks all others. "
        f"N = {settings['num_curve_texts']} texts per point, and for the real text. Bars are "
        f"{settings['confidence']:.0%} intervals; they may run out of the picture. Being near the real text is the "
        "aim. To its right, texts are duller, and the judge may still like them: low perplexity alone is no merit. To "
        "its left, they vary more than real ones do, which is noise. Above it, they are less like real ones."
    )
    tables = [_words_table(*table) for table in (envelope_settings(report), plane_points(report)) if table[2]]
    return "\n".join([_section("Quality and diversity", "grid", pictures, caption), *tables])


def _latents(report: dict[str, Any]) -> str:
    if not report["positions"]:
        return ""
    names = ", ".join(report["positions"])
    kinds = {"kl": "KL of posterior and prior", "mi": "Mutual information of text and latent, with its cap log N,"}
    pictures = [
        _picture(lambda axis, kind=kind: plot_positions(axis, report, kind), f"{label} by segment position: {names}.")
        for kind, label in kinds.items()
    ]
    caption = (
        f"Nats of each segment, mean over texts. Only positions that at least {MIN_TEXTS} texts have. The estimate of "
        "mutual information cannot pass log N (dashed); near it, it is a lower bound."
    )
    sections = [_section("KL and mutual information by segment position", "grid", pictures, caption)]
    pictures = [
        _picture(
            lambda axis, name=name: plot_latents(axis, report, name),
            f"Latents of {name} in two dimensions: posterior means coloured by segment position, prior means in grey.",
            (3.6, 3.9),
        )
        for name in report["scatter"]
    ]
    if pictures:
        caption = (
            "Posterior means of real texts' segments, coloured by segment position, over prior means (grey), in the "
            "plane of the posterior means' two main components, which is another one for each system. A collapsed "
            f"posterior lies on its prior. Scales differ; none is narrower than {2 * MIN_HALF_WIDTH:g}."
        )
        sections.append(_section("Latents", "grid small", pictures, caption))
    return "\n".join(sections)


def _picture(draw: Callable, alt: str, size: tuple[float, float] = (5.2, 4.0)) -> str:
    return f'<div class="card"><img alt="{_text(alt)}" src="data:image/png;base64,{png(draw, size)}"></div>'


def _section(title: str, kind: str, pictures: Sequence[str], caption: str) -> str:
    body = "\n".join(pictures)
    return (
        f'<section>\n<h2>{title}</h2>\n<div class="{kind}">\n{body}\n</div>\n'
        f'<p class="note">{_text(caption)}</p>\n</section>'
    )


__all__ = ["html_page"]
