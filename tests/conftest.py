import os
import signal
from pathlib import Path

import pytest
import torch

# Before anything is imported that reads it once: nothing waits for a network, which is missing.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # as the `zoo` command does


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Blocks train on one thread each; more would only contend with other tests' processes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Prepared images and compiled kernels of a test session stay out of the user's cache."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
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
