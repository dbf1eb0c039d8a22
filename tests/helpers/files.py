"""Files of texts, and a cache of `datasets` that a test has to itself."""

import json

import datasets
import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache of `datasets`, without progress bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def write_jsonl(path, rows, open_=open, column="text"):
    path.parent.mkdir(exist_ok=True)
    with open_(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({column: row}) + "\n" for row in rows)
    return str(path)
