"""The authors' own splits, by a file of theirs."""

import json

import numpy as np
import pytest
from state_folders import mlp, rows_of, write_folder
from tiny_runs import make_run

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import read_manifest

COUNT = 12
WORDS = ("train", "val_holdout", "test")


def word(number):
    return WORDS[number % 3]


def lists(named):
    return {split: [name for number, name in enumerate(named) if word(number) == split] for split in WORDS}


IDS = [f"m{number:02}" for number in range(COUNT)]
PATHS = [f"/home/authors/zoo/nets/{name}.safetensors" for name in IDS]
FORMS = {
    "ids.json": json.dumps(lists(IDS)),
    "paths.json": json.dumps(lists(PATHS)),
    "columns.json": json.dumps({split: {"path": names, "label": ["3"] * 4} for split, names in lists(PATHS).items()}),
    "by_path.json": json.dumps({path: word(number) for number, path in enumerate(PATHS)}),
    "index.json": json.dumps(lists(range(COUNT))),
    "objects.json": json.dumps([{"id": name, "split": word(number)} for number, name in enumerate(IDS)]),
    "index.csv": "index,split\n" + "".join(f"{number},{word(number)}\n" for number in range(COUNT)),
    "path.csv": "path,split\n" + "".join(f"nets/{name}.safetensors,{word(n)}\n" for n, name in enumerate(IDS)),
    "id.tsv": "model_id\tsplit\n" + "".join(f"{name}\t{word(number)}\n" for number, name in enumerate(IDS)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    states = {f"nets/{name}.safetensors": mlp(number) for number, name in enumerate(IDS)}
    return write_folder(tmp_path_factory.mktemp("folder"), states)


def built(source, tmp_path, text, name="splits.json", **options):
    (tmp_path / name).write_text(text)
    options.setdefault("name", "mlps")
    return build_repository(source, tmp_path / "repo", options.pop("name"),
                            reading=Reading(splits=tmp_path / name), **options)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_form_names_the_split_of_each_row(folder, tmp_path, form):
    built(folder, tmp_path, FORMS[form], form)
    rows = rows_of(tmp_path / "repo")
    assert [row["source_split"] for row in rows] == [word(number) for number in range(COUNT)]
    held = zd.load_zoo(tmp_path / "repo", "mlps", split_by="source", split="val_holdout")
    assert sorted(held["model_id"]) == IDS[1::3]


def test_what_is_in_only_one_of_both_is_counted_and_listed(folder, tmp_path):
    text = json.dumps({"train": [*IDS[:4], "m99"], "test": ["nothing"]})
    result = built(folder, tmp_path, text)
    assert "2 of 6 entries of splits.json are of nothing here: 'm99', 'nothing'" in result.codes
    assert "splits.json names no split of 8 of 12 here" in result.codes
    described = read_manifest(tmp_path / "repo", "mlps").source["splits"]
    assert described["unmatched"] == {"entries": 2, "first": ["m99", "nothing"]}
    assert described["splits"] == {"train": 4}
    with pytest.raises(SourceError, match="--strict"):
        built(folder, tmp_path, text, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["x"]}', "none of its 1 entries is of anything here: it has 'x', and here are names as"),
        ('{"train": ["m01"], "test": ["m01"]}', "is in the splits 'train' and 'test'; expected one"),
        ('{"train": [1.5]}', "1.5 is no path, id or index"),
        ('{"train": 3}', "'train' holds 3; expected"),
        ('{"": ["m01"]}', "'' is no name of a split"),
        ("[1]", "expected a table of split"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_that_is_none_of_splits_is_refused_in_one_line(folder, tmp_path, text, message):
    with pytest.raises(SourceError) as caught:
        built(folder, tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "repo").exists()


def test_names_that_may_be_several_files_are_refused(tmp_path):
    source = write_folder(tmp_path / "nets", {f"{part}/0.pt": mlp(n) for n, part in enumerate(("a", "b"))})
    with pytest.raises(SourceError, match="'0.pt' may be 'a/0.pt' or 'b/0.pt'"):
        built(source, tmp_path, '{"train": ["0.pt"]}')
    built(source, tmp_path, '{"train": ["other/a/0.pt"], "test": ["b/0.pt"]}')
    assert [row["source_split"] for row in rows_of(tmp_path / "repo")] == ["train", "test"]


def test_rows_of_an_array_are_named_by_number(tmp_path):
    (tmp_path / "nets").mkdir()
    np.save(tmp_path / "nets" / "weights.npy", np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32))
    (tmp_path / "layout.json").write_text(json.dumps([["w", [5]]]))
    (tmp_path / "splits.csv").write_text("index,split\n5,test\n0,train\n")
    build_repository(tmp_path / "nets", tmp_path / "repo", "mlps", reading=Reading(
        splits=tmp_path / "splits.csv", state_dicts=StateDictOptions(layout=tmp_path / "layout.json")))  # fmt: skip
    assert [row["source_split"] for row in rows_of(tmp_path / "repo")] == ["train", *[None] * 4, "test"]


def test_trained_models_get_them_too(tmp_path):
    run = make_run(tmp_path / "run", ((8, 1),))
    ids = [member.model_id for member in run.members]
    built(tmp_path / "run", tmp_path, json.dumps({"a": ids[:4], "b": ids[4:]}), name="splits.json")
    zoos = zd.load_zoo(tmp_path / "repo", "mlps", split_by="source")
    assert {name: set(zoo["model_id"]) for name, zoo in zoos.items()} == {"a": set(ids[:4]), "b": set(ids[4:])}
    assert zd.verify_repository(tmp_path / "repo", "mlps").ok
