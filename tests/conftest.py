import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are many times slower with more threads on a busy machine."""
    torch.set_num_threads(1)
