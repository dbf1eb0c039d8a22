import pytest
import torch
from helpers import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are many times slower with more threads on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(params=list(tiny.ARCHITECTURES))
def architecture(request, monkeypatch):
    """A law for both places where latents can enter: `tiny_config` makes models of each in turn."""
    monkeypatch.setattr(tiny, "ARCHITECTURE", tiny.ARCHITECTURES[request.param])
    return request.param
