"""What a card says of the differences from the published zoo, for each zoo that has any."""

import dataclasses

import pytest
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.repository.card.text import page_of
from zoo_datasets.repository.credit import MODEL_ZOOS, Credit
from zoo_datasets.repository.departures import departures
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.zoos import get_zoo

PUBLISHED = Credit(origin="published", authors="The authors", licence="cc-by-4.0", paper=MODEL_ZOOS).to_dict()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("departures")
    run = make_run(folder / "run", ((3, 1),))
    build_repository(run.path, folder / "repo")
    return read_manifest(folder / "repo", "digits_cnn_s")


def of(manifest, name, credit=None):
    source = {"kind": "run"} if credit is None else {"kind": "raw zoo", "credit": credit}
    return dataclasses.replace(manifest, zoo=get_zoo(name).to_dict(), source=source)


@pytest.mark.parametrize(
    ("name", "trained", "published"),
    [
        ("mnist_cnn_s", [], []),
        ("digits_cnn_s", [], []),
        ("cifar10_resnet18", ["images as they are"], ["augmented images"]),
        ("svhn_cnn_s", [], []),
        ("svhn_cnn_s_hyp_fix", ["another normalisation"], ["another normalisation"]),
        ("svhn_cnn_s_hyp_rand", ["another normalisation", "seeds were drawn here"], ["another normalisation"]),
        ("usps_cnn_s_hyp_rand", ["seeds were drawn here"], []),
        ("mnist_cnn_s_sparse", ["cross-entropy alone", "its own parent"], ["those of its parent"]),
        ("eurosat_cnn_s", ["a guess"], []),
        ("eurosat_cnn_s_magnitude50", ["its own parent", "a guess"], ["those of its parent"]),
    ],
)
def test_each_zoo_says_what_applies_to_it(manifest, name, trained, published):
    for credit, expected in ((None, trained), (PUBLISHED, published)):
        zoo = of(manifest, name, credit)
        sentences = departures(zoo)
        assert len(sentences) == len(expected), sentences
        assert all(part in sentence for part, sentence in zip(expected, sentences, strict=True))
        assert all(f"\n- {sentence}\n" in page_of(zoo) for sentence in sentences)
        assert ("the published zoo" in page_of(zoo)) or not expected


def test_nothing_is_said_of_zoos_of_other_recipes_or_unknown_origin(manifest):
    assert departures(of(manifest, "svhn_cnn_s_hyp_fix", Credit().to_dict())) == []
    own = dataclasses.replace(manifest, zoo=manifest.zoo | {"name": "my_own"}, source={"kind": "run"})
    assert departures(own) == []
    assert "What differs" not in page_of(own)
