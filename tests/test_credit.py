"""Whose the models of a zoo are: stated at the build, kept, on page and card, merged by a push, and cited."""

import json
from contextlib import closing
from pathlib import Path

import datasets
import pytest
from hub_client import Client
from hub_server import serving
from raw_zoos import make_zoo
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SpecError
from zoo_datasets.repository.card import parse_card, read_card
from zoo_datasets.repository.credit import Statements, credit_of
from zoo_datasets.repository.manifest import read_manifest

A = "digits_cnn_s"
BIBTEX = "@misc{mine2024,\n  title = {My zoo},\n  year = {2024}\n}"
OTHER = "@misc{theirs,\n  title = {Their zoo}\n}"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    make_zoo(folder / "my_mnist", models=3, epochs=(0, 1))
    make_run(folder / "run", ((6, 1),))
    return folder


def build(*arguments):
    result = CliRunner().invoke(app, ["build", *map(str, arguments)])
    return result.exit_code, " ".join(f"{result.output} {result.exception or ''}".split())


def credit(repo, name):
    return credit_of(read_manifest(repo, name).source)


def licence(repo):
    data = read_card(repo).data.to_dict()
    return {key: data[key] for key in ("license", "license_name", "license_link") if key in data}


def test_what_is_stated_stands_in_manifest_page_and_card_and_stays(sources, tmp_path):
    repo, bib = tmp_path / "repo", tmp_path / "mine.bib"
    bib.write_text(BIBTEX)
    assert build(sources / "my_mnist", "--out", repo, "--name", "mine")[0] == 0
    assert licence(repo) == {"license": "unknown"}
    assert "origin unknown" in (repo / "_meta" / "mine" / "README.md").read_text()
    stated = ("--license", "MIT", "--citation", bib, "--origin", "https://example.org/zoo, by <b>us</b>")
    assert build(sources / "my_mnist", "--out", repo, "--name", "mine", *stated)[0] == 0
    for options in ((), ("--origin", "elsewhere")):
        assert build(sources / "my_mnist", "--out", repo, "--name", "mine", *options)[0] == 0
        recorded = credit(repo, "mine")
        assert (recorded.origin, recorded.licence, recorded.citation) == ("stated", "mit", BIBTEX)
        assert recorded.place == (options[1] if options else "https://example.org/zoo, by <b>us</b>")
        page = (repo / "_meta" / "mine" / "README.md").read_text()
        assert "origin unknown" not in page
        assert "<b>" not in page or "`" in page
        assert "**Licence.** mit" in page
        assert BIBTEX in page
        assert BIBTEX in (repo / "README.md").read_text()
        assert licence(repo) == {"license": "mit"}
        assert "| mit |" in (repo / "README.md").read_text()


def test_the_licence_of_the_card_is_the_common_one_or_other(sources, tmp_path):
    repo = tmp_path / "repo"
    build_repository(sources / "run", repo)
    assert licence(repo) == {"license": "cc-by-4.0"}
    build_repository(sources / "my_mnist", repo, "b", statements=Statements(licence="cc-by-4.0"))
    assert licence(repo) == {"license": "cc-by-4.0"}
    build_repository(sources / "my_mnist", repo, "c")
    several = {"license": "other", "license_name": "one-for-each-zoo", "license_link": "README.md"}
    assert licence(repo) == several
    zd.remove_zoo(repo, "c")
    assert licence(repo) == {"license": "cc-by-4.0"}
    mine = Statements(licence="My Licence 2 https://example.org/licence")
    build_repository(sources / "my_mnist", tmp_path / "own", "d", statements=mine)
    assert licence(tmp_path / "own") == {
        "license": "other", "license_name": "my-licence-2", "license_link": "https://example.org/licence"
    }  # fmt: skip
    assert "[My Licence 2](https://example.org/licence) |" in (tmp_path / "own" / "README.md").read_text()
    build_repository(sources / "my_mnist", repo, "d", statements=mine)
    assert licence(repo) == several
    # What a person writes stays.
    card = repo / "README.md"
    computed = "license: other\nlicense_name: one-for-each-zoo\nlicense_link: README.md"
    card.write_text(card.read_text().replace(computed, "license: mit"))
    build_repository(sources / "my_mnist", repo, "e")
    assert licence(repo) == {"license": "mit"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--license", "cc-by-5.0", "license 'cc-by-5.0' is none that the Hub knows; did you mean"),
        ("--license", "Mine javascript:x", "Another one needs its address"),
        ("--citation", "@misc{a, title = {`x`}}", "expected BibTeX"),
        ("--citation", "nosuch.bib", "is neither BibTeX nor a file of it"),
        ("--origin", " ", "expected 1 to 500 characters"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_the_work(sources, tmp_path, option, value, message):
    code, output = build(sources / "my_mnist", "--out", tmp_path / "repo", option, value)
    assert code == 1
    assert message in output
    assert not (tmp_path / "repo").exists()


def test_a_push_merges_licences_and_citations(sources, tmp_path):
    build_repository(sources / "run", tmp_path / "a")
    build_repository(sources / "my_mnist", tmp_path / "b", "b", statements=Statements(licence="mit", citation=BIBTEX))
    with serving() as hub, closing(Client(hub.url, tmp_path / "home")) as client:
        name = "somebody/model-zoos"
        out = client.zoo("push", tmp_path / "a", name) + client.zoo("push", tmp_path / "b", name)
        assert "warning" not in out
        card = parse_card(hub.repos[name].head.files["README.md"].blob.read_text(), name)
        assert (card.data.license, card.data.license_name) == ("other", "one-for-each-zoo")
        assert BIBTEX in card.text
        assert "schurholt2022model" in card.text
        client.zoo("remove", name, A)
        card = parse_card(hub.repos[name].head.files["README.md"].blob.read_text(), name)
        assert card.data.license == "mit"


def test_all_that_is_in_a_zoo_is_cited_once(sources, tmp_path):
    repo = tmp_path / "repo"
    build_repository(sources / "run", repo, statements=Statements(citation=BIBTEX))
    build_repository(sources / "run", repo, "other", statements=Statements(citation=OTHER))
    build_repository(sources / "my_mnist", repo, "nobody")
    zoo = zd.load_zoo(repo, A, "train")
    text = zd.cite(zoo)
    assert text.count("@") == 2
    assert BIBTEX in text
    assert "@inproceedings{schurholt2022model," in text
    both = zd.load_zoo(repo, [A, "other", "nobody"], "train")
    everything = zd.cite(both)
    assert (everything.count("@"), everything.count("schurholt2022model")) == (3, 1)
    assert "% nobody: no citation is recorded" in everything
    stream = zd.load_zoo(repo, A, "train", streaming=True)
    for one in (
        zoo.select([0]), zoo.with_format("torch"), zoo.filter(lambda row: row["epoch"] == 1), zd.load_zoo(repo, A),
        zd.batches(zoo, 4), zd.reconstruction(zoo, batch_size=4), stream, zd.batches(stream, 4, ["weights"]),
        zd.load_zoo(repo, f"{A}-meta", "train"), [zoo, zd.batches(zoo, 4)],
    ):  # fmt: skip
        assert zd.cite(one) == text
    mixed = zd.mixed_tokens({name: both[name] for name in (A, "other")}, 4)
    assert OTHER in zd.cite(mixed)
    assert BIBTEX in zd.cite(mixed)
    with pytest.raises(SpecError, match="expected what load_zoo returns"):
        zd.cite(datasets.Dataset.from_dict({"a": [1]}))
    with pytest.raises(SpecError, match="expected what load_zoo returns"):
        zd.cite("model-zoos")


def test_manifests_without_statements_are_read(sources, tmp_path):
    build_repository(sources / "run", tmp_path / "repo")
    file = Path(tmp_path / "repo" / "_meta" / A / "manifest.json")
    value = json.loads(file.read_text())
    for key in ("licence_link", "citation", "place", "stated"):
        del value["source"]["credit"][key]
    file.write_text(json.dumps(value))
    assert credit(tmp_path / "repo", A).licence == "cc-by-4.0"
