"""The HTML page of a report: it stands alone, escapes what it is given, and draws the metrics of the report."""

import base64
import copy
import math
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from modeling_trace.evaluation.report import html_page as report_html
from modeling_trace.evaluation.report.html_page import html_page
from modeling_trace.evaluation.report.plots import plot_latents, plot_plane, plot_positions

EVIL = '"><script>alert(1)</script>'
PNG = re.compile(r'src="data:image/png;base64,([^"]+)"')


def cell(value, half=None, mark=None):
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high, "mark": mark}


def column(label, decimals, num_texts):
    return {"metric": "any", "label": label, "decimals": decimals, "num_texts": num_texts}


def point(temperature, self_bleu, cnd, judge, latent=None, on_envelope=True):
    metrics = {"self_bleu": cell(self_bleu, 1.5), "cnd": cell(cnd, 0.5), "judge": cell(judge, 200.0)}
    setting = {"temperature": temperature, "latent_temperature": latent, "on_envelope": on_envelope}
    return {**setting, "metrics": metrics}


def make_report():
    systems = [
        {"path": f"runs/{name}", "segmenter": "None", "backbone": "gpt2", "latent_dynamics": dynamics}
        | {"name": name, "latent_size": 32, "posterior_norm": "layer"}
        for name, dynamics in (("plain", "none"), ("trace", "recurrent"))
    ]
    overview = {
        "id": "overview",
        "title": "Overview of all",
        "columns": [column("SB ↓", 2, 61), column("CND ↓", 3, 62), column("AU", 0, 63)],
        "rows": [
            {"name": "real text", "cells": [cell(3.125, 0.25), cell(0.5, 0.1), None]},
            {"name": "plain", "cells": [cell(41.5, 2.0, "second"), cell(1.234, 0.2), None]},
            {"name": "trace", "cells": [cell(17.25, 1.75, "best"), cell(math.nan), cell(8.0)]},
        ],
        "caption": "Mind the caption.",
    }
    signed = {**cell(-24.25, 3.0, "differs"), "signed": True}
    differences = {
        "id": "differences",
        "title": "Differences from plain",
        "columns": [column("SB", 1, 64)],
        "rows": [{"name": "trace", "cells": [signed]}],
        "caption": "",
    }
    positions = {"num_texts": [20, 12, 5, 4], "kl": [6.0, 5.0, 4.0, 3.0], "mi": [2.5, 2.0, 1.5, 1.25]}
    positions |= {"mi_cap": [3.0, 2.5, 1.6, 1.4], "mi_joint": 2.0, "mi_joint_cap": 3.0}
    return {
        "systems": systems,
        "data": {"name": "reviews", "num_real": 60, "num_references": 500, "max_words": None, "conditional": False},
        "settings": {
            "seeds": [0],
            "num_likelihood_texts": 20,
            "num_samples": 5,
            "likelihood_method": "importance",
            "word_tokenizer": "whitespace",
            "num_curve_texts": 30,
            "judge": "some-judge",
            "num_judge_texts": 10,
            "confidence": 0.95,
        },
        "tables": [overview, differences],
        "tests": [],
        "seeds": {},
        "positions": {"trace": positions},
        "scatter": {
            "trace": {
                "posterior": [[float(i), 0.5] for i in range(10)],
                "prior": [[0.0, 0.1]] * 10,
                "segment": list(range(1, 11)),
            }
        },
        "curves": {
            "plain": [point(1.0, 5.0, 0.7, 900.0), point(0.5, 40.0, 20.0, 60.0)],
            "trace": [
                *(point(0.5, 15.0, 3.0, 250.0, 0.5), point(0.7, 9.0, 2.0, 400.0, 1.0)),
                *(point(1.0, 4.0, -0.1, 2000.0, 1.0), point(0.9, 11.0, 2.5, 600.0, 1.0, on_envelope=False)),
            ],
        },
        "envelopes": {
            name: {
                "line": [[100.0, 12.0], [200.0, low]],
                "settings": [
                    {"perplexity": perplexity, "temperatures": [0.5, 0.6], "latent_temperature": latent}
                    for perplexity in (271.3, 540.0)
                ],
            }
            for name, latent, low in (("plain", None, 8.0), ("trace", 0.5, 4.0))
        },
        "real_on_curve": point(0, 3.0, 0.2, 300.0)["metrics"],
        "samples": {
            "": {"real text": [{"text": "a real one", "prompt": None}]},
            "top-k": {"plain": [{"text": "", "prompt": None}], "trace": [{"text": "a made one", "prompt": None}]},
        },
        "findings": ["Nothing is shown.", "All is noise."],
    }


class Page(HTMLParser):
    """Tags, attributes and text; fails on a tag that is not closed in its place."""

    VOID = ("meta", "img", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def test_page_stands_alone():
    html = html_page(make_report())
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>") and '<html lang="en">' in html and '<meta charset="utf-8">' in html
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<script", PNG.sub("", html))
    assert "src=" not in PNG.sub("", html)
    pictures = PNG.findall(html)
    assert len(pictures) == page.tags.count("img") == 5  # two planes, KL, mutual information, latents of one system
    assert all(base64.b64decode(picture, validate=True).startswith(b"\x89PNG") for picture in pictures)
    alts = [value for name, value in page.attributes if name == "alt"]
    assert len(set(alts)) == 5 and all("trace" in alt for alt in alts)
    order = ["60 real texts", "some-judge", "What does not hold", "All is noise.", "Overview of all"]
    order += ["Quality and diversity", "by segment position", "Latents", "Texts drawn at random", "runs/plain"]
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)


@pytest.fixture
def without_png(monkeypatch):
    """Pictures are drawn but not written, which is most of the time."""

    def picture(draw, alt, size=None):
        draw(Figure().subplots())
        return f'<img alt="{report_html._text(alt)}">'

    monkeypatch.setattr(report_html, "_picture", picture)


def test_tables_show_metrics_and_marks(without_png):
    html = html_page(make_report())
    text = Page(html).text
    for expected in (
        "SB ↓ N = 61CND ↓ N = 62AU N = 63",
        "real text3.12 ± 0.250.500 ± 0.100-",
        "plain41.50 ± 2.001.234 ± 0.200-",
        "trace17.25 ± 1.75-8",
        "SB N = 64",
        "trace-24.2* ± 3.0",
        "Mind the caption.",
        "Bold is best and underlined second best",
    ):
        assert expected in text
    tables = html.split("<table>")[1].split("</table>")[0]
    assert re.findall(r"<strong[^>]*>(.*?)</strong>", tables) == ["17.25"]
    assert re.findall(r"<u[^>]*>(.*?)</u>", tables) == ["41.50"]
    assert re.findall(r'<tr class="real"><th scope="row">(.*?)</th>', html) == ["real text"]
    assert "nan" not in text


def test_everything_is_escaped():
    report = make_report()
    for system in report["systems"]:
        system.update(name=EVIL, path=EVIL, segmenter=EVIL)
    del report["systems"][1]
    for part in ("positions", "scatter", "curves", "envelopes"):
        report[part] = {EVIL: report[part]["trace"]}
    table = report["tables"][0]
    table.update(title=EVIL, caption=EVIL)
    table["rows"][1]["name"] = table["columns"][0]["label"] = EVIL
    report["samples"]["top-k"] = {EVIL: [{"text": EVIL + '"&\x00\ud800', "prompt": EVIL}]}
    report["findings"].append(EVIL)
    report["data"]["name"] = report["settings"]["judge"] = EVIL
    html = html_page(report)
    assert "script" not in Page(html).tags and "&amp;lt;" not in html
    assert EVIL in Page(html).text
    assert html.encode() and "\x00" not in html


def one_system(report):
    del report["systems"][0], report["curves"]["plain"], report["envelopes"]["plain"], report["tables"][1]
    return 5


def no_judge(report):
    report["settings"]["judge"] = None
    for curve in report["curves"].values():
        for one in curve:
            del one["metrics"]["judge"]
            one["on_envelope"] = False
    report["envelopes"] = {name: {"line": [], "settings": []} for name in report["envelopes"]}
    return 4


def no_references(report):
    report["data"]["num_references"] = 0
    for curve in report["curves"].values():
        for one in curve:
            del one["metrics"]["cnd"]
    return 4


def no_latents(report):
    report["positions"], report["scatter"] = {}, {}
    return 2


def no_curves(report):
    report["curves"] = {"plain": [], "trace": []}
    return 3


def prompts(report):
    report["data"]["conditional"] = True
    for systems in report["samples"].values():
        for rows in systems.values():
            rows[0]["prompt"] = "the prompt"
    return 5


def seeds(report):
    report["settings"]["seeds"] = [0, 1, 2]
    return 5


def nothing_finite(report):
    """As read back from JSON, where NaN is None."""
    for curve in report["curves"].values():
        curve[0]["metrics"]["judge"] = {"value": None, "low": None, "high": None}
        curve[0]["metrics"]["cnd"] = cell(1.0)
    report["real_on_curve"] = {"self_bleu": None}
    report["positions"]["trace"].update(mi=[None] * 4, mi_cap=[None] * 4, num_texts=[1, 1, 1, 1])
    report["scatter"]["trace"].update(posterior=[[None, None]] * 10, prior=[[math.nan, 0.0]] * 10)
    report["tables"][0]["rows"][0]["cells"] = [{"value": 1.0, "low": math.nan, "high": math.nan}, None, cell(None)]
    return 5


PARTS = [one_system, no_judge, no_references, no_latents, no_curves, prompts, seeds, nothing_finite]


@pytest.mark.parametrize("change", PARTS)
@pytest.mark.filterwarnings("error")
def test_missing_parts(change, without_png):
    report = make_report()
    num_pictures = change(report)
    before = copy.deepcopy(repr(report))
    page = Page(html_page(report))
    assert page.tags.count("img") == num_pictures
    assert ("Latents" in page.text) == bool(report["positions"])
    assert page.text.count("[the prompt]") == (3 if change is prompts else 0)
    assert ("on the prompt of a real one" in page.text) == (change is prompts)
    assert "nan" not in page.text
    assert ("seed (0, 1, 2)" in page.text) == (change is seeds)
    assert page.text.startswith("Evaluation of trace" if change is one_system else "Comparison of plain, trace")
    assert repr(report) == before


@pytest.mark.parametrize("metric, place", [("cnd", 1), ("judge", 2)])
def test_plane_draws_the_metrics(metric, place):
    axis = Figure().subplots()
    plot_plane(axis, make_report(), metric)
    expected = {  # by temperature: (Self-BLEU, CND, judge)
        "plain": [(40.0, 20.0, 60.0), (5.0, 0.7, 900.0)],
        "trace": [(15.0, 3.0, 250.0), (9.0, 2.0, 400.0), (4.0, -0.1, 2000.0)],
        "real text": [(3.0, 0.2, 300.0)],
    }
    drawn = {container.get_label(): container.lines for container in axis.containers}
    assert list(drawn) == list(expected)
    for name, (line, _, (horizontal, vertical)) in drawn.items():
        for (x, y), row in zip(line.get_xydata().tolist(), expected[name], strict=True):
            assert (x, y) == (row[0], row[place])
        half = {"cnd": 0.5, "judge": 200.0}[metric]
        for bars, dimension, width in ((horizontal, 0, 1.5), (vertical, 1, half)):
            for segment, middle in zip(bars.get_segments(), line.get_xydata(), strict=True):
                assert segment[:, dimension].tolist() == pytest.approx(
                    [middle[dimension] + d for d in (-width, width)]
                )
    assert axis.get_yscale() == {"cnd": "symlog", "judge": "log"}[metric]
    low, high = axis.get_ylim()
    assert all(low < row[place] < high for rows in expected.values() for row in rows)
    ends = {(text.get_text(), text.xy) for text in axis.texts}
    assert ends == {
        (f"T={temperature}", (row[0], row[place]))
        for temperature, row in (("0.5", expected["plain"][0]), ("1", expected["plain"][1]))
    }  # of the first system
    others = [line.get_xydata().tolist() for line in axis.lines if line.get_alpha() == 0.5 and len(line.get_xdata())]
    assert others == [[[11.0, {"cnd": 2.5, "judge": 600.0}[metric]]]]  # not on the line
    lines = [line.get_xydata().tolist() for line in axis.lines if line.get_linestyle() != "None"]
    expected = [[[12.0, 100.0], [low, 200.0]] for low in (8.0, 4.0)]  # one for each system, by the judge alone
    assert lines == (expected if metric == "judge" else [])


def test_without_an_envelope_no_line_is_drawn():
    report = make_report()
    no_judge(report)
    axis = Figure().subplots()
    plot_plane(axis, report, "cnd")
    marks = [container.lines[0] for container in axis.containers[:2]]
    assert [len(line.get_xdata()) for line in marks] == [2, 4]
    assert {line.get_linestyle() for line in axis.lines} == {"None"}


def test_settings_and_points_of_the_plane_are_listed(without_png):
    text = Page(html_page(make_report())).text
    for expected in (
        "Systemat 271at 540",
        "plainT=0.5 to 0.6T=0.5 to 0.6",
        "traceT=0.5 to 0.6, τ=0.5T=0.5 to 0.6, τ=0.5",
        "traceT=0.7, τ=1400 ± 2009.00 ± 1.502.000 ± 0.500yes",
        "traceT=0.9, τ=1600 ± 20011.00 ± 1.502.500 ± 0.500 ",
    ):
        assert expected in text, text


@pytest.mark.parametrize("kind, values", [("kl", [6.0, 5.0, 4.0]), ("mi", [2.5, 2.0, 1.5])])
def test_positions_of_few_texts_are_left_out(kind, values):
    axis = Figure().subplots()
    plot_positions(axis, make_report(), kind)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    expected = {"trace": [[place, value] for place, value in enumerate(values, 1)]}
    if kind == "mi":
        expected["cap, log N"] = [[1.0, 3.0], [2.0, 2.5], [3.0, 1.6]]
    assert lines == expected


def test_latents_lie_over_the_prior_and_colours_end_at_eight():
    axis = Figure().subplots()
    plot_latents(axis, make_report(), "trace")
    prior, *posterior = axis.collections
    assert prior.get_offsets().tolist() == [[0.0, 0.1]] * 10
    found = {part.get_label(): part.get_offsets().tolist() for part in posterior}
    assert found == {str(n): [[n - 1.0, 0.5]] for n in range(1, 8)} | {"8+": [[x, 0.5] for x in (7.0, 8.0, 9.0)]}
    colours = [tuple(part.get_facecolor()[0][:3]) for part in (prior, *posterior)]
    assert len(set(colours)) == 9
    low, high = axis.get_xlim()
    assert low == -high and high > 9


def test_a_collapsed_posterior_does_not_fill_its_panel():
    report = make_report()
    report["scatter"]["trace"]["posterior"] = [[0.01 * i, 0.0] for i in range(10)]
    axis = Figure().subplots()
    plot_latents(axis, report, "trace")
    assert axis.get_xlim() == axis.get_ylim() == (-1, 1)


def test_a_system_looks_the_same_in_all_pictures():
    report = make_report()
    axes = Figure().subplots(1, 2)
    plot_plane(axes[0], report, "cnd")
    plot_positions(axes[1], report, "kl")
    looks = [
        (line.get_color(), line.get_marker())
        for line in (axes[0].containers[0].lines[0], axes[0].containers[1].lines[0], axes[1].lines[0])
    ]
    assert looks[1] == looks[2] != looks[0]


def test_names_that_are_no_formulas():
    report = make_report()
    del report["systems"][0]
    name = report["systems"][0]["name"] = r"_$\frac$"
    for part in ("positions", "scatter", "curves", "envelopes"):
        report[part] = {name: report[part]["trace"]}
    page = Page(html_page(report))
    assert page.tags.count("img") == 5 and name in page.text
