"""examples/paper/plots.py: what is drawn is what was measured, in all three forms."""

import csv
import importlib
from itertools import product

import pytest
from helpers.paper import content, over_seeds, paper_modules, row
from PIL import Image

INTERVAL = {"seconds_per_step": [0.9, 1.2]}
LABELS = ("dataset", "system", "decoding", "segment_length", "steps", "temperature", "latent_temperature")
YELP = {"dataset": "yelp", "decoding": "top-k"}


@pytest.fixture(autouse=True)
def modules():
    with paper_modules():
        yield


def figure2():
    return [
        row({"segment_length": length, "system": system}, {"seconds_per_step": 1.0}, intervals=INTERVAL)
        for length, system in product((1, 5), ("gpt2", "trace", "trace-r", "trace-p"))
    ]


def figure3(seeds=(0, 1, 2)):
    return [
        one
        for length, system in product(("sentences", 20, 5), ("trace-r", "trace"))
        for one in over_seeds(
            {**YELP, "system": system, "segment_length": length},
            {"self_bleu": 30.0 + len(str(length)), "cnd": 0.5, "distinct_2": 9.0},
            seeds,
            intervals={"self_bleu": [28.0, 33.0]},
        )
    ]


def plane(judge=True):
    real = {"dataset": "yelp", "system": "real text"}
    rows = [row({**real, "decoding": "plane"}, {"judge": 200.0, "self_bleu": 26.0, "cnd": 0.1})]
    for temperature, latent in product((0.0, 1.0), (0.5, 1.0)):
        labels = {**YELP, "decoding": "plane", "system": "trace-r"}
        labels |= {"temperature": temperature, "latent_temperature": latent}
        metrics = {"judge": 100 * (1 + temperature), "self_bleu": 80 - 50 * temperature, "cnd": 0.5}
        rows += over_seeds(labels, metrics)
    if not judge:
        for one in rows:
            del one["metrics"]["judge"]
    return rows


def likelihood_time():
    return [
        one
        for steps, system in product((100, 200), ("gpt2", "trace"))
        for one in over_seeds(
            {**YELP, "system": system, "steps": steps},
            {"nats": 170.0, "reconstruction": 160.0} | ({"neg_elbo": 172.0} if system == "trace" else {}),
            seconds={"train": 3.0 * steps, "train_processor": 2.0 * steps},
        )
    ]


DRAWN = {
    "figure2": (figure2, ("seconds_per_step",)),
    "figure3": (figure3, ("self_bleu", "cnd")),
    "plane": (plane, ("self_bleu", "judge")),
    "likelihood_time": (likelihood_time, ("nats", "neg_elbo", "train_seconds")),
}


def draw(folder, experiment, rows):
    return importlib.import_module("plots").draw(content(experiment, rows), folder)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_star_is_of_as_many_real_texts_as_a_point(tmp_path):
    more = row({"dataset": "yelp", "system": "real text"}, {"judge": 200.0, "self_bleu": 31.0})
    lines = read(draw(tmp_path, "plane", [more, *plane()])[-1])
    values = [line["values"] for line in lines if line["system"] == "real text" and line["metric"] == "self_bleu"]
    assert values == ["26.0"]


@pytest.mark.parametrize("experiment", DRAWN)
def test_the_data_is_what_was_measured(tmp_path, experiment):
    make, metrics = DRAWN[experiment]
    rows = make()
    paths = draw(tmp_path, experiment, rows)
    assert [path.suffix for path in paths] == [".svg", ".png", ".csv"] and all(map(type(paths[0]).is_file, paths))
    wanted = {}
    for one in rows:
        labels = {name: str(value) for name, value in one["labels"].items() if name != "seed" and value is not None}
        own = one["metrics"] | {"train_seconds": one["seconds"].get("train_processor")}
        for metric in metrics:
            if own.get(metric) is not None:
                wanted.setdefault((frozenset(labels.items()), metric), []).append(own[metric])
    found = {}
    for line in read(paths[-1]):
        values = [float(value) for value in line["values"].split()]
        labels = {name: line[name] for name in line if line[name] and name in LABELS}
        found[frozenset(labels.items()), line["metric"]] = values
        assert float(line["mean"]) == pytest.approx(sum(values) / len(values))
        if len(values) > 1:
            assert (float(line["low"]), float(line["high"])) == (min(values), max(values))
    assert found == wanted


def test_a_single_value_has_the_interval_as_measured(tmp_path):
    for name, rows in (("figure2", figure2()), ("figure3", figure3(seeds=(4,)))):
        line = read(draw(tmp_path, name, rows)[-1])[0]
        interval = INTERVAL["seconds_per_step"] if name == "figure2" else [28.0, 33.0]
        assert [float(line["low"]), float(line["high"])] == interval and line["interval"] == "as measured"


@pytest.mark.parametrize("experiment", DRAWN)
def test_pictures_are_as_wide_as_a_column_and_always_the_same(tmp_path, experiment):
    first, other = (draw(tmp_path / name, experiment, DRAWN[experiment][0]()) for name in ("first", "other"))
    width, _ = Image.open(first[1]).size
    plots = importlib.import_module("plots")
    assert width == pytest.approx(plots.WIDTH * plots.DPI, abs=2)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in other]
    assert not [path for path in first[0].parent.iterdir() if path not in first]  # nothing half written is left
    sizes = [value for name, value in plots.STYLE.items() if name.endswith("size") and "marker" not in name]
    assert len(sizes) == 5 and min(sizes) >= 7


def test_the_axis_of_figure_3_is_what_was_trained(monkeypatch, tmp_path):
    plots = importlib.import_module("plots")
    labels = []
    monkeypatch.setattr(plots, "_write", lambda picture, *_: labels.extend(picture.axes[-1].get_xticklabels()) or [])
    draw(tmp_path, "figure3", figure3())
    assert [one.get_text() for one in labels] == ["5", "20", "sentences"]


def test_each_data_set_has_its_own(tmp_path):
    rows = figure3() + [one | {"labels": {**one["labels"], "dataset": "yahoo"}} for one in figure3()]
    assert {path.stem for path in draw(tmp_path, "figure3", rows)} == {"figure3-yelp", "figure3-yahoo"}


def test_the_plane_without_a_judge_has_cnd(tmp_path):
    lines = read(draw(tmp_path, "plane", plane(judge=False))[-1])
    assert {line["metric"] for line in lines} == {"self_bleu", "cnd"}


def test_nothing_is_drawn_without_results(tmp_path):
    failed = [one | {"metrics": {}, "failed": "RuntimeError: no memory"} for one in figure2()]
    assert (
        draw(tmp_path, "figure2", failed) == [] == draw(tmp_path, "table2", figure3()) == draw(tmp_path, "plane", [])
    )
    assert list(tmp_path.iterdir()) == []


def test_systems_differ_in_colour_marker_and_line():
    plots = importlib.import_module("plots")
    results = importlib.import_module("pooled").Results(content("figure2", figure2()), None)
    looks = [plots._look(system, results) for system in ("gpt2", "trace", "trace-r", "trace-p")]
    for part in ("color", "marker", "linestyle"):
        assert len({look[part] for look in looks}) == 4


def test_time_is_the_processors_own_where_no_gpu_is(tmp_path):
    for device, factor in (("cpu", 2.0), ("NVIDIA H100", 3.0)):
        own = content("likelihood_time", likelihood_time(), machine={"device": device})
        drawn = importlib.import_module("plots").draw(own, tmp_path / device)
        lines = [line for line in read(drawn[-1]) if line["metric"] == "train_seconds"]
        assert lines and all(float(line["mean"]) == factor * int(line["steps"]) for line in lines)
