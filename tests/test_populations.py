"""The table of populations of others, and what derives from it."""

from pathlib import Path

import pytest

from zoo_datasets.errors import SourceError, UnknownNameError
from zoo_datasets.repository.credit import HUB_LICENCES
from zoo_datasets.repository.populations import get_population, list_populations, markdown_rows
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.specs.zoos import list_zoos, twins_of


def test_the_page_of_the_documentation_has_the_rows_of_the_table():
    page = (Path(__file__).parents[1] / "docs" / "populations.md").read_text()
    assert "\n".join(markdown_rows()) in page, "docs/populations.md has other rows than markdown_rows() gives"


def test_names_are_told_apart_from_those_of_zoos_and_credit_their_authors():
    zoos = {one.name for zoo in list_zoos() for one in (zoo, *twins_of(zoo))}
    for one in list_populations():
        assert NAME.fullmatch(one.name)
        assert one.name not in zoos
        assert one.credit.origin == "published"
        assert one.credit.authors
        assert one.credit.licence in HUB_LICENCES
        assert one.verified
        assert one.unverified


def test_a_name_says_where_its_files_lie(monkeypatch):
    assert get_population("small_cnn_zoo_svhn").location.endswith("/smallcnnzoo-dataset/svhn_cropped.tar.xz")
    monkeypatch.setenv("ZOO_POPULATIONS", "http://127.0.0.1:8000/mirror/")
    expected = "http://127.0.0.1:8000/mirror/gresearch/smallcnnzoo-dataset/mnist.tar.xz"
    assert get_population("small_cnn_zoo_mnist").location == expected
    with pytest.raises(SourceError, match=r"nfn_cifar10_inrs cannot be fetched by its name: download it from https"):
        _ = get_population("nfn_cifar10_inrs").location
    with pytest.raises(UnknownNameError, match="did you mean small_cnn_zoo_cifar10"):
        get_population("small_cnn_cifar10")
