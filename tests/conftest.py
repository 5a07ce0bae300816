import os
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


@pytest.fixture
def real_raw():
    """Three raw zoos and a preprocessed dataset by the original code; skips where they are not at hand."""
    folder = os.environ.get("ZOO_TEST_DATA")
    if not folder:
        pytest.skip("ZOO_TEST_DATA does not name the folder of real test data")
    return Path(folder) / "raw"


@pytest.fixture
def real_mnist():
    """The real MNIST in the Hub's layout; skips where it is not at hand."""
    folder = os.environ.get("ZOO_TEST_DATA")
    if not folder:
        pytest.skip("ZOO_TEST_DATA does not name the folder of real test data")
    return Path(folder) / "data" / "mnist"
