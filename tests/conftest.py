"""Fixtures import what they need: xdist's first process reads this file before it starts those that run tests."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are many times slower with more threads on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def older_objects_are_frozen():
    """Every training ends in `gc.collect()`, which would look through all that was ever imported each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["embeddings", "between layers"])
def architecture(request, monkeypatch):
    """A law for both places where latents can enter: `tiny_config` makes models of each in turn."""
    from helpers import tiny

    monkeypatch.setattr(tiny, "ARCHITECTURE", tiny.ARCHITECTURES[request.param])
    return request.param
