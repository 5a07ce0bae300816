from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Blocks train on one thread each; more would only contend with other tests' processes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Prepared images and compiled kernels of a test session stay out of the user's cache."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Path(cache)
