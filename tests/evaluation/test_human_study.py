"""Human evaluation: blinded sheets, reading them back, and what they say."""

import csv
import io
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from modeling_trace.cli.main import main
from modeling_trace.evaluation.human_study import sheets as human
from modeling_trace.evaluation.human_study.reading import read_sheets
from modeling_trace.evaluation.human_study.sheets import make_sheets, sheet_csv
from modeling_trace.evaluation.human_study.statistics import paired_tests, summarise, summary_table

SYSTEMS = ("zebra-R", "quokka", "no_yak")
CRITERIA = ("fluency", "coherence", "novelty")
# what breaks CSV, HTML, scripts and spreadsheets
NASTY = ['=1+1 "quoted", and;more', "</script><script>alert(1)</script> &amp; <!--", "'-two\nlines\r\nand \u2028 ✓ é"]


def make_texts(num_prompts=6, systems=SYSTEMS, prompts=True):
    return {
        system: [
            {
                "text": f" {NASTY[number % 3]} {number}.{index}\n",
                "segments": ["canary"],
                "latents": [[0.123456]],
                "prompt": f"- Prompt {number}" if prompts else None,
            }
            for number in range(num_prompts)
        ]
        for index, system in enumerate(systems)
    }


def make(folder, num_prompts=6, seed=0, **kwargs):
    kwargs = {"num_annotators": 3, **kwargs}
    return make_sheets(make_texts(num_prompts), folder, num_prompts=num_prompts, seed=seed, **kwargs)


def form_data(path) -> dict:
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def rating(annotator: str, item: str, criterion: str) -> int:
    return random.Random(f"{annotator} {item} {criterion}").randint(1, 5)


def fill(folder, target):
    """Answer every sheet by its form's data, saved as the form saves it."""
    target.mkdir()
    for path in folder.glob("*.html"):
        sheet = form_data(path)
        answers = {
            row["item"]: {name: rating(sheet["annotator"], row["item"], name) for name in CRITERIA}
            for row in sheet["rows"]
        }
        (target / f"{path.stem}.csv").write_bytes(sheet_csv(sheet, answers).encode())


@pytest.fixture
def study(tmp_path):
    key = make(tmp_path / "sheets")
    fill(tmp_path / "sheets", tmp_path / "filled")
    return key, tmp_path / "sheets", tmp_path / "filled"


# ---- Blinding and loads ----


def test_no_file_but_the_key_tells_a_system(tmp_path):
    make(tmp_path / "sheets")
    files = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert files == [*(f"annotator_{n}.{kind}" for n in (1, 2, 3) for kind in ("csv", "html")), "key.json"]
    for path in (tmp_path / "sheets").iterdir():
        content = path.read_text(encoding="utf-8").lower()
        for name in SYSTEMS:
            assert (name.lower() in content) == (path.name == "key.json"), (path.name, name)
        assert "canary" not in content and "0.123456" not in content
        if path.name != "key.json":
            assert "checksum" not in content and "seed" not in content


def _independence(counts: np.ndarray) -> float:
    """p-value of the counts of permutations of k things, which vary by k / (k - 1) more than free counts do."""
    size = len(counts)
    expected = counts.sum() / size**2
    statistic = ((counts - expected) ** 2 / expected).sum() * (size - 1) / size
    return stats.chi2.sf(statistic, (size - 1) ** 2)


def test_neither_places_nor_ids_tell_a_system(tmp_path):
    places, ids, same = np.zeros((3, 3)), np.zeros((3, 3)), 0
    for seed in range(100):
        key = make(tmp_path / str(seed), seed=seed, num_annotators=2)
        sheets = [form_data(tmp_path / str(seed) / f"annotator_{number}.html")["rows"] for number in (1, 2)]
        orders = [{}, {}]
        for order, rows in zip(orders, sheets, strict=True):
            for _, group in itertools.groupby(rows, lambda row: row["group"]):
                items = [row["item"] for row in group]
                order[frozenset(items)] = items
        for group, items in orders[0].items():
            same += items == orders[1][group]
            for place, item in enumerate(items):
                places[place, SYSTEMS.index(key["items"][item]["system"])] += 1
            for place, item in enumerate(sorted(items)):
                ids[place, SYSTEMS.index(key["items"][item]["system"])] += 1
    assert places.sum() == 1800
    assert _independence(places) > 1e-3 and _independence(ids) > 1e-3
    # each annotator has an order of their own: the same one by chance in a sixth of the groups
    assert stats.binomtest(same, 600, 1 / 6).pvalue > 1e-3
    # the check itself notices a tenth of the groups in a fixed order
    assert _independence(np.full((3, 3), 180) + np.eye(3) * 60) < 1e-3


@pytest.mark.parametrize("num_prompts, num_annotators, per_text", [(50, 5, 2), (7, 3, 2), (10, 4, 3), (12, 12, 1)])
def test_loads_are_balanced(tmp_path, num_prompts, num_annotators, per_text):
    key = make(tmp_path / "s", num_prompts, num_annotators=num_annotators, annotators_per_text=per_text)
    seen, groups = Counter(), {}
    for annotator in key["annotators"]:
        rows = form_data(tmp_path / "s" / f"{annotator}.html")["rows"]
        assert [row["item"] for row in rows] == key["annotators"][annotator]
        seen.update(row["item"] for row in rows)
        by_group = {}
        for row in rows:
            by_group.setdefault(row["group"], []).append(row)
        assert list(by_group) == list(range(1, len(by_group) + 1))
        for group in by_group.values():
            assert {key["items"][row["item"]]["system"] for row in group} == set(SYSTEMS) and len(group) == 3
            assert len({row["prompt"] for row in group}) == 1
            assert len({key["items"][row["item"]]["group"] for row in group}) == 1
        groups[annotator] = {key["items"][row["item"]]["group"] for row in rows}
    assert set(seen) == set(key["items"]) and len(seen) == 3 * num_prompts
    assert set(seen.values()) == {per_text}
    loads = [len(own) for own in groups.values()]
    assert max(loads) - min(loads) <= 1
    if num_prompts == 50:  # the paper: 20 groups each; here every two annotators also share equally many
        assert loads == [20] * 5
        assert {len(a & b) for a, b in itertools.combinations(groups.values(), 2)} == {5}


def test_texts_stand_beside_their_prompts(tmp_path):
    """The key leads from each item to the system that wrote this text on this prompt."""
    texts = make_texts(num_prompts=8)
    texts["quokka"].reverse()  # the files need not have one order
    key = make_sheets(texts, tmp_path / "s", num_prompts=6, num_annotators=2, seed=3)
    written = {
        (s, row["prompt"], row["text"].strip().replace("\r\n", "\n")) for s, own in texts.items() for row in own
    }
    rows = form_data(tmp_path / "s" / "annotator_1.html")["rows"]
    assert len({row["prompt"] for row in rows}) == 6
    for row in rows:
        assert (key["items"][row["item"]]["system"], row["prompt"], row["text"]) in written


def test_without_prompts_a_group_is_any_text_of_each_system(tmp_path):
    key = make_sheets(make_texts(9, prompts=False), tmp_path / "s", num_prompts=5, num_annotators=2, seed=0)
    rows = form_data(tmp_path / "s" / "annotator_2.html")["rows"]
    assert len(rows) == 15 and len({row["text"] for row in rows}) == 15 and {row["prompt"] for row in rows} == {""}
    assert Counter(key["items"][row["item"]]["system"] for row in rows) == dict.fromkeys(SYSTEMS, 5)


def test_a_seed_makes_the_sheets_again(tmp_path):
    make(tmp_path / "a", seed=1), make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "c" / path.name).read_bytes()


def test_all_files_or_none(tmp_path, monkeypatch):
    make(tmp_path / "sheets")
    before = {path.name: path.read_bytes() for path in (tmp_path / "sheets").iterdir()}
    with pytest.raises(ValueError, match="holds sheets already"):
        make(tmp_path / "sheets", seed=5)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "sheets").iterdir()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        make(tmp_path / "other")
    calls = itertools.count()
    write = human.Path.write_bytes

    def full_disk(path, content):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(human.Path, "write_bytes", full_disk)
    with pytest.raises(OSError):
        make(tmp_path / "new")
    assert next(calls) == 4 and sorted(path.name for path in tmp_path.iterdir()) == ["other", "sheets"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_prompts": 7}, "`num_prompts` must be at most the prompts that every system wrote on, here 6, got 7"),
        ({"num_prompts": 0}, "`num_prompts` must be >= 1, got 0"),
        ({"num_annotators": 1}, "`num_annotators` must be >= `annotators_per_text` 2, got 1"),
        ({"num_annotators": 13}, "`num_annotators` 13 is more than there is work for"),
        ({"criteria": ["grammar"]}, "`criteria` must be among fluency, coherence, novelty, got 'grammar'"),
        ({"criteria": "fluency"}, r"Use \['fluency'\]"),
        ({"criteria": {"system": ("?", "abcde")}}, "got 'system'"),
        ({"criteria": {"fun": ("is it?", ["no", "yes"])}}, "'fun' needs five anchors"),
        ({"texts_by_system": {}}, "`texts_by_system` is empty"),
        ({"texts_by_system": {"a": ["x"], "b": [{"txt": 1}]}}, "row 1 of 'b' has no `text`"),
        ({"texts_by_system": {"a": ["x"] * 6, "b": ["x"] * 5}}, "got 6 and 5 texts of 'b'"),
        (
            {"texts_by_system": {"a": ["x"] * 6, **make_texts(systems=["b"])}},
            "a prompt for all texts or for none: 'a'",
        ),
    ],
)
def test_make_sheets_refuses(tmp_path, change, message):
    arguments = {"texts_by_system": make_texts(), "num_prompts": 6, "num_annotators": 3, "seed": 0, **change}
    with pytest.raises(ValueError, match=message) as caught:
        make_sheets(output_dir=tmp_path / "s", **arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_own_criteria(tmp_path):
    criteria = {"Humour": ("is it funny?", ["no", "hardly", "a bit", "yes", "very"])}
    key = make_sheets(make_texts(), tmp_path / "s", num_prompts=6, num_annotators=2, criteria=criteria, seed=0)
    assert "hardly" in (tmp_path / "s" / "annotator_1.html").read_text(encoding="utf-8")
    for path in (tmp_path / "s").glob("*.html"):
        sheet = form_data(path)
        answers = {row["item"]: {"Humour": 4} for row in sheet["rows"]}
        path.with_suffix(".csv").write_bytes(sheet_csv(sheet, answers).encode())
    assert {row["Humour"] for row in read_sheets(tmp_path / "s", key)} == {4}


# ---- The form ----


def test_the_form_holds_the_sheet_and_loads_nothing(study):
    _, sheets, _ = study
    for path in sheets.glob("*.html"):
        page, sheet = path.read_text(encoding="utf-8"), form_data(path)
        assert path.with_suffix(".csv").read_bytes() == sheet_csv(sheet).encode()
        assert not re.search(r"https?:|<link|<img|<iframe|\bsrc\s*=|@import|url\(|fetch\(|XMLHttp|innerHTML", page)
        assert "default-src 'none'" in page and page.count("</script>") == 2
        for criterion in sheet["criteria"]:
            assert len(criterion["anchors"]) == 5 and criterion["name"] in CRITERIA


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the form's script")
def test_the_form_saves_what_python_reads(study):
    _, sheets, filled = study
    page = (sheets / "annotator_2.html").read_text(encoding="utf-8")
    sheet = form_data(sheets / "annotator_2.html")
    answers = {
        row["item"]: {name: rating("annotator_2", row["item"], name) for name in CRITERIA} for row in sheet["rows"]
    }
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    script += f"\nprocess.stdout.write(toCsv({json.dumps(sheet)}, {json.dumps(answers)}));"
    done = subprocess.run(["node", "-"], input=script.encode(), capture_output=True, timeout=60, check=True)
    assert done.stdout == (filled / "annotator_2.csv").read_bytes()


# ---- Reading ----


def test_round_trip(study):
    key, sheets, filled = study
    expected = {
        (annotator, item, key["items"][item]["system"], key["items"][item]["group"])
        + tuple(rating(annotator, item, name) for name in CRITERIA)
        for annotator, items in key["annotators"].items()
        for item in items
    }
    got = read_sheets(filled, sheets / "key.json")
    assert len(got) == 36 and {tuple(row.values()) for row in got} == expected
    assert list(got[0]) == ["annotator", "item", "system", "group", *CRITERIA]
    assert read_sheets([filled / f"annotator_{number}.csv" for number in (1, 2, 3)], key) == got


def as_rows(path):
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def as_file(path, rows, encoding="utf-8", **kwargs):
    file = io.StringIO()
    csv.writer(file, **kwargs).writerows(rows)
    path.write_bytes(file.getvalue().encode(encoding))


def test_what_spreadsheets_do_is_no_tampering(study):
    """Other delimiters and line ends, another order of rows and columns, blank rows, a column of notes."""
    key, _, filled = study
    expected = read_sheets(filled, key)
    path = filled / "annotator_1.csv"
    header, *rows = as_rows(path)
    as_file(path, [header, *rows, [""] * len(header)], delimiter=";", lineterminator="\n")
    assert read_sheets(filled, key) == expected
    rows = [[cell.replace("\n", "\r\n") + " " for cell in row] for row in rows]
    as_file(path, [[*header[::-1], "notes"], *([*row[::-1], "hm"] for row in rows)], encoding="utf-8-sig")
    assert read_sheets(filled, key) == expected
    as_file(path, [header, *rows[::-1]], delimiter="\t")
    assert sorted(map(str, read_sheets(filled, key))) == sorted(map(str, expected))


def _set(row, column, value):
    def change(rows):
        rows[row][column] = value

    return change


# Columns: annotator, group, item, prompt, text, fluency, coherence, novelty. The index of a row here is one less than
# its number in a spreadsheet.
@pytest.mark.parametrize(
    "change, message",
    [
        (_set(3, 6, ""), "row 4: `coherence` is not filled in"),
        (_set(1, 5, " "), "row 2: `fluency` is not filled in"),
        (_set(12, 7, "6"), "row 13: `novelty` must be a whole number from 1 to 5, got '6'"),
        (_set(2, 7, "0"), "row 3: `novelty` must be"),
        (_set(2, 5, "-1"), "row 3: `fluency` must be"),
        (_set(2, 5, "3.5"), "row 3: `fluency` must be a whole number from 1 to 5, got '3.5'"),
        (_set(2, 5, "good"), "row 3: `fluency` must be"),
        (_set(2, 5, "٣"), "row 3: `fluency` must be"),
        (_set(5, 4, "A better text."), "row 6: the prompt or text of item '.{8}' was edited"),
        (_set(5, 3, "Another prompt"), "row 6: the prompt or text"),
        (_set(5, 2, "zzzzzzzz"), "row 6: there is no item 'zzzzzzzz' in the key"),
        (lambda rows: rows.pop(5), "row 12 is the last, and 1 of its items are missing: "),
        (lambda rows: rows.append(list(rows[4])), "row 14: item '.{8}' is in row 5 already"),
        (_set(7, 0, "annotator_2"), "row 8: `annotator` was annotator_1 above, got annotator_2"),
        (_set(7, 0, "annotator_9"), "row 8: `annotator` must be one of annotator_1, .*, got 'annotator_9'"),
        (lambda rows: rows[8].pop(), "row 9: has 7 cells, and the first row 8"),
        (_set(0, 6, "cohesion"), "row 1: the columns must be annotator, .*, got .* cohesion"),
        (lambda rows: rows.__delitem__(slice(1, None)), "is empty"),
    ],
)
def test_sheets_that_were_tampered_with_are_refused(study, change, message):
    key, _, filled = study
    path = filled / "annotator_1.csv"
    rows = as_rows(path)
    change(rows)
    as_file(path, rows)
    with pytest.raises(ValueError, match=f"^'.*annotator_1.csv' {message}") as caught:
        read_sheets(filled, key)
    assert "\n" not in str(caught.value)


def test_sets_of_sheets_that_do_not_fit_are_refused(study, tmp_path):
    key, sheets, filled = study
    other = make(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match="row 2: there is no item .* another key"):
        read_sheets(filled, other)
    with pytest.raises(ValueError, match="annotator_1.csv' row 2: `fluency` is not filled in"):
        read_sheets(sheets, key)
    shutil.copy(filled / "annotator_2.csv", filled / "annotator_2 (1).csv")
    with pytest.raises(ValueError, match=r"'.*annotator_2.csv' row 2: annotator_2 has a sheet already, '.*\(1\).csv'"):
        read_sheets(filled, key)
    (filled / "annotator_2 (1).csv").unlink()
    swapped = as_rows(filled / "annotator_3.csv")
    own = set(key["annotators"]["annotator_3"])
    swapped[4][2] = next(item for item in key["items"] if item not in own)
    as_file(filled / "annotator_3.csv", swapped)
    with pytest.raises(ValueError, match="row 5: item '.*' is not one of annotator_3"):
        read_sheets(filled, key)
    (filled / "annotator_3.csv").unlink()
    with pytest.raises(ValueError, match="lacks the sheets of annotator_3"):
        read_sheets(filled, key)
    (filled / "annotator_3.csv").write_bytes("annotator;é".encode("latin-1"))
    with pytest.raises(ValueError, match="annotator_3.csv' is not UTF-8"):
        read_sheets(filled, key)
    (filled / "annotator_3.csv").write_text('a,b\n"open')
    with pytest.raises(ValueError, match="annotator_3.csv' row 2 is no CSV"):
        read_sheets(filled, key)
    for wrong, message in (("nowhere.json", "there is no key file"), ("annotator_1.html", "is no key")):
        with pytest.raises(ValueError, match=message):
            read_sheets(filled, sheets / wrong)
    with pytest.raises(ValueError, match="holds no CSV files"):
        read_sheets(tmp_path, key)
    with pytest.raises(ValueError, match="there is no folder"):
        read_sheets(tmp_path / "nowhere", key)


# ---- Statistics ----


def rows_of(table, systems=("a",), criterion="fluency"):
    """`table[annotator][unit]`, None where not rated; the systems take turns over the units."""
    return [
        {
            "annotator": f"annotator_{number}",
            "item": f"item{unit}",
            "system": systems[unit % len(systems)],
            "group": unit // len(systems),
            criterion: value,
        }
        for number, own in enumerate(table)
        for unit, value in enumerate(own)
        if value is not None
    ]


def test_kappa_is_that_of_the_books():
    # 20 agree on 1, 15 on 2, 5 and 10 disagree: observed 0.7, by chance 0.5
    first = [1] * 20 + [1] * 5 + [2] * 10 + [2] * 15
    second = [1] * 20 + [2] * 5 + [1] * 10 + [2] * 15
    agreement = summarise(rows_of([first, second]))["agreement"]["fluency"]
    assert agreement["kappa"]["unweighted"] == pytest.approx(0.4)
    # two adjacent ratings: all weights are the same
    assert agreement["kappa"]["linear"] == pytest.approx(0.4) and agreement["num_pairs"] == 1
    # Cohen (1968), by hand: observed disagreement (0 + 4 + 1 + 0) / 4, expected 35 / 16
    quadratic = summarise(rows_of([[1, 2, 3, 5], [1, 4, 4, 5]]))["agreement"]["fluency"]["kappa"]["quadratic"]
    pairs = [(x - y) ** 2 for x in (1, 2, 3, 5) for y in (1, 4, 4, 5)]
    assert quadratic == pytest.approx(1 - (5 / 4) / (sum(pairs) / 16))


def test_kappa_is_the_mean_of_scikit_learns_over_pairs(study):
    key, _, filled = study
    ratings = read_sheets(filled, key)
    agreement = summarise(ratings)["agreement"]
    for criteria in ([name] for name in CRITERIA), [CRITERIA]:
        for names in criteria:
            for kind, weights in (("unweighted", None), ("linear", "linear"), ("quadratic", "quadratic")):
                kappas = []
                for one, two in itertools.combinations(sorted(key["annotators"]), 2):
                    both = sorted(set(key["annotators"][one]) & set(key["annotators"][two]))
                    pair = [[rating(who, item, name) for name in names for item in both] for who in (one, two)]
                    kappas.append(metrics.cohen_kappa_score(*pair, labels=[1, 2, 3, 4, 5], weights=weights))
                got = agreement[names[0] if len(names) == 1 else "all"]
                assert got["kappa"][kind] == pytest.approx(np.mean(kappas)) and got["num_pairs"] == 3


def test_krippendorffs_alpha_is_that_of_his_example():
    # Krippendorff (2011), "Computing Krippendorff's alpha-reliability": four observers, twelve units, ordinal 0.815
    _ = None
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
    assert summarise(rows_of(table))["agreement"]["fluency"]["alpha"] == pytest.approx(0.815, abs=5e-4)


def test_agreement_that_is_not_defined_is_none():
    one = summarise(rows_of([[1, 2, 3]]))["agreement"]["all"]  # nobody to agree with
    same = summarise(rows_of([[3, 3, 3], [3, 3, 3]]))["agreement"]["all"]  # nothing to tell apart
    assert (
        one == same == {"kappa": dict.fromkeys(("unweighted", "linear", "quadratic")), "num_pairs": 0, "alpha": None}
    )
    json.dumps(summarise(rows_of([[3]])), allow_nan=False)
    assert "undefined" in summary_table(summarise(rows_of([[3]])))


def test_means_and_intervals():
    summary = summarise(rows_of([[1, 3, 5], [3, 3, 3]]))  # texts: 2, 3, 4
    mean = summary["means"]["a"]["fluency"]
    half = 4.302652730 / 3**0.5  # t of 2 degrees of freedom at 0.975, times the standard error
    assert mean == pytest.approx({"mean": 3, "low": 3 - half, "high": 3 + half})
    assert summary["num_items"] == summary["num_groups"] == 3 and summary["num_ratings"] == 6
    assert "| a | 3.00 ± 2.48 |" in summary_table(summary)


def test_p_values_are_known_and_corrected():
    # over 8 groups one system is always ahead: exact two-sided p of 2 / 2^8
    three = rows_of([[5, 4, 2] * 8], systems=("x", "y", "z"))
    tests = paired_tests(three)
    assert [(test["first"], test["second"], test["difference"]) for test in tests] == [
        *(("x", "y", 1), ("x", "z", 3), ("y", "z", 2))
    ]
    for test in tests:
        assert test["p"] == pytest.approx(2 / 2**8) and test["effect"] == 1 and test["significant"]
        assert test["p_holm"] == pytest.approx(3 * 2 / 2**8)
    # criteria are of one family: six tests now
    six = paired_tests([{**row, "novelty": 3} for row in three])
    assert six[0]["p_holm"] == pytest.approx(6 * 2 / 2**8) and six[-1]["p"] == 1 and not six[-1]["significant"]
    # Holm's steps: 3 times the least, twice the next, the greatest as it is
    steps = paired_tests(rows_of([[5, 5, 2] * 2 + [5, 4, 2] * 6 + [4, 3, 5] * 3], systems=("x", "y", "z")))
    by_p = sorted(steps, key=lambda test: test["p"])
    expected, last = [], 0
    for factor, test in zip((3, 2, 1), by_p, strict=True):
        last = max(last, factor * test["p"])
        expected.append(min(1, last))
    assert len({test["p"] for test in steps}) == 3
    assert [test["p_holm"] for test in by_p] == pytest.approx(expected)
    scores = np.array([[5, 5, 2]] * 2 + [[5, 4, 2]] * 6 + [[4, 3, 5]] * 3)
    assert steps[2]["p"] == pytest.approx(stats.wilcoxon(scores[:, 1] - scores[:, 2]).pvalue)


def test_equal_differences_of_thirds_are_ties():
    """4/3 - 1 and 5/3 - 4/3 differ in floating point; as ranks they must not."""
    assert 4 / 3 - 1 < 5 / 3 - 4 / 3
    ahead, behind = [(1, 1), (1, 1), (2, 1)], [(1, 1), (1, 2), (2, 2)]  # three annotators' ratings of x and of y
    table = [[*ahead[number] * 6, *behind[number] * 2] for number in range(3)]
    (test,) = paired_tests(rows_of(table, systems=("x", "y")))
    assert test["p"] == stats.wilcoxon([1] * 6 + [-1] * 2).pvalue != stats.wilcoxon([1] * 6 + [-2] * 2).pvalue


def test_marks_need_a_difference_that_holds():
    clear = summarise(rows_of([[5, 4, 2] * 8], systems=("x", "y", "z")))
    assert clear["marks"]["fluency"] == {"best": "x", "second": "y"}
    table = summary_table(clear)
    assert table.startswith("| Model | Fluency |\n| --- | ---: |\n| x | **5.00**") and "| y | <u>4.00</u>" in table
    # the two best are not told apart, though both are above the third
    level = summarise(rows_of([[4, 5, 2] + [5, 4, 2] * 2 + [5, 5, 2] * 7], systems=("x", "y", "z")))
    assert [test["significant"] for test in level["tests"]] == [False, True, True]
    assert level["means"]["x"]["fluency"]["mean"] > level["means"]["y"]["fluency"]["mean"]
    assert level["marks"]["fluency"] == {"best": None, "second": None}
    assert "**" not in summary_table(level) and "<u>" not in summary_table(level)
    # with five groups, the least p there can be is 0.0625
    assert summarise(rows_of([[5, 1] * 5], systems=("x", "y")))["marks"]["fluency"]["best"] is None
    # of two systems, the worst is not marked as the second
    two = summarise(rows_of([[5, 1] * 8], systems=("x", "y")))
    assert two["marks"]["fluency"] == {"best": "x", "second": None}
    assert summarise(rows_of([[5, 4]]))["marks"]["fluency"]["best"] is None  # one system is best of none


def simulate(rng, shift=0.0, num_groups=30):
    """Two systems, two annotators with a bias of their own, prompts that differ, ratings rounded to 1..5."""
    prompts = rng.normal(3, 0.6, num_groups)
    ratings = []
    for index, system in enumerate(("x", "y")):
        quality = prompts + rng.normal(0, 0.7, num_groups) + shift * index
        for annotator, bias in (("p", -0.3), ("q", 0.3)):
            values = np.clip(np.rint(quality[:, None] + bias + rng.normal(0, 0.7, (num_groups, 3))), 1, 5)
            for group, own in enumerate(values.astype(int).tolist()):
                row = {"annotator": annotator, "item": f"{system}{group}", "system": system, "group": group}
                ratings.append({**row, **dict(zip(CRITERIA, own, strict=True))})
    return ratings


def test_identical_systems_come_out_as_different_at_the_stated_rate_at_most():
    rng = np.random.default_rng(0)
    studies = 250
    found = sum(any(test["significant"] for test in paired_tests(simulate(rng))) for _ in range(studies))
    assert stats.binomtest(found, studies, 0.05, alternative="greater").pvalue > 0.01, found
    assert found > 0  # a test that never finds anything would pass as well
    better = [paired_tests(simulate(rng, shift=1.5)) for _ in range(20)]
    assert all(test["significant"] and test["difference"] < 0 for tests in better for test in tests)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows.clear(), "`ratings` is empty"),
        (lambda rows: rows.pop(0), "no text of 'x' in group 0"),
        (lambda rows: rows[2].update(fluency=6), r"`ratings`\[2\]: `fluency` must be .*, got 6"),
        (lambda rows: rows[2].pop("fluency"), r"`ratings`\[2\] has no `fluency`"),
        (lambda rows: rows.append({**rows[0], "item": "new"}), "'x' has two texts in group 0"),
        (lambda rows: rows.append(rows[0]), "annotator_0 rated item 'item0' twice"),
    ],
)
def test_ratings_that_are_no_study_are_refused(change, message):
    rows = rows_of([[1, 2, 3, 4]], systems=("x", "y"))
    change(rows)
    with pytest.raises(ValueError, match=message):
        summarise(rows)


@pytest.mark.parametrize("module", ["scipy.stats", "sklearn.metrics", "krippendorff"])
def test_a_missing_package_names_the_extra(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"requires the `eval` extra: pip install 'modeling-trace\[eval\]'$"):
        summarise(rows_of([[1, 2, 3]]))


# ---- Command line ----


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_commands(tmp_path, capsys):
    files = []
    for name, rows in make_texts().items():
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--num_prompts", 6, "--num_annotators", 3, "--seed", 4]
    sheets, filled, table = tmp_path / "sheets", tmp_path / "filled", tmp_path / "table.md"
    code, out, err = run(capsys, "human", "make", *files, "--output", sheets, *flags)
    assert code == 0 and "12 texts each" in out and "(--seed 4)" in err, err
    assert json.loads((sheets / "key.json").read_text())["systems"] == list(SYSTEMS)
    fill(sheets, filled)
    code, out, err = run(capsys, "human", "read", filled, "--key", sheets / "key.json", "--output", table)
    assert code == 0, err
    assert out.startswith("| Model | Fluency | Coherence | Novelty |\n") and table.read_text() in out
    summary = json.loads((tmp_path / "table.json").read_text())
    assert summary == summarise(read_sheets(filled, sheets / "key.json"))

    def error(*arguments):
        code, _, err = run(capsys, "human", *arguments)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
        return err

    assert "table.md' exists" in error("read", filled, "--key", sheets / "key.json", "--output", table)
    assert "there is no key file" in error("read", filled)
    assert "must be a Markdown file" in error("read", filled, "--output", tmp_path / "x.json")
    assert "the sheets are missing" in error("read")
    assert "say `human make` or `human read`" in error()
    assert "holds sheets already" in error("make", *files, "--output", sheets, *flags)
    assert "`names` must be one for each file, got 1 for 3" in error("make", *files, "--names", "a", "--output", "x")
    assert "got 'quokka' twice" in error("make", files[1], files[1], "--output", tmp_path / "x")
    assert "the texts are missing" in error("make", "--output", tmp_path / "x")
    assert "`output` is missing" in error("make", files[0])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    assert "bad.jsonl' line 2 has no `text`" in error("make", tmp_path / "bad.jsonl", "--output", tmp_path / "x")
    assert "got 50. Generate" in error("make", *files, "--output", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    names = ["--names", "ours", "old", "plain"]
    assert run(capsys, "human", "make", *files, *names, "--output", tmp_path / "x", *flags)[0] == 0
    assert json.loads((tmp_path / "x" / "key.json").read_text())["systems"] == names[1:]
    for help_flags in (["--help"], ["make", "--help"], ["read", "--help"]):
        code, out, _ = run(capsys, "human", *help_flags)
        assert code == 0 and "usage:" in out
