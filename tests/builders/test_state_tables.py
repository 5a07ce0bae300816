"""What names of files and tables say of state dicts."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from state_folders import NAME, build, mlp, rows_of, same, write_folder
from typer.testing import CliRunner

from zoo_datasets.builders.state_dicts.columns import of_texts, of_values
from zoo_datasets.builders.state_dicts.names import Pattern, guess
from zoo_datasets.builders.state_dicts.table import read_table
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError, UnknownNameError
from zoo_datasets.repository.manifest import read_manifest


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "in", {f"m{number}.safetensors": mlp(number) for number in range(5)})


def table(path, text):
    path.write_text(text)
    return path


GUESSES = {
    "{model_id}/epoch_{epoch}.pt": {"a/epoch_01.pt": ("a", "01", None), "b/epoch_1.pt": ("b", "1", None)},
    "{model_id}.pt": {"m_1.pt": ("m_1", None, None), "m_2.pt": ("m_2", None, None)},
    "{model_id}/{epoch}.pt": {
        "a/0.pt": ("a", "0", None), "a/1.pt": ("a", "1", None), "b/0.pt": ("b", "0", None), "b/1.pt": ("b", "1", None),
    },
    "{model_id}.pth": {
        "3/11.pth": ("3/11", None, None), "3/12.pth": ("3/12", None, None), "4/13.pth": ("4/13", None, None),
    },
    "{model_id}/model.safetensors": {
        "x/a/model.safetensors": ("a", None, None), "x/b/model.safetensors": ("b", None, None),
    },
    "{model_id}/checkpoint-{step}/model.safetensors": {
        "a/checkpoint-500/model.safetensors": ("a", None, "500"),
        "b/checkpoint-1000/model.safetensors": ("b", None, "1000"),
    },
    "{model_id}_ep{epoch}_it{step}.pt": {
        "r_ep001_it00500.pt": ("r", "001", "00500"), "s_ep001_it00600.pt": ("s", "001", "00600"),
    },
}  # fmt: skip


@pytest.mark.parametrize("text", GUESSES)
def test_names_are_guessed(text):
    names = guess(list(GUESSES[text]))
    assert names.text == text
    for path, expected in GUESSES[text].items():
        values = names.values(path)
        assert (values["model_id"], values.get("epoch"), values.get("step")) == expected


def test_patterns_say_what_names_are():
    pattern = Pattern("{model_id}/epoch_{epoch}.safetensors")
    assert pattern.values("a/b/epoch_007.safetensors") == {"model_id": "a/b", "epoch": "007"}
    assert pattern.values("a/epoch_x.safetensors") is None
    assert Pattern("*/{run}_{epoch}_{acc}").values("mnist/r_1_75_0.9.pt") == {
        "run": "r_1", "epoch": "75", "acc": "0.9", "model_id": "run=r_1,acc=0.9"
    }  # fmt: skip
    for text in ("plain", "{A}", "{a}{a}", "{}"):
        with pytest.raises(SourceError, match="--pattern"):
            Pattern(text)


def test_a_pattern_fills_columns_with_types(tmp_path):
    made = {
        f"lr{lr}_seed{seed}/step_{step:05d}.pt": mlp(seed) for lr in (0.1, 0.01) for seed in (1, 2) for step in (0, 9)
    }
    result = build(write_folder(tmp_path / "in", made), tmp_path / "repo", pattern="lr{lr}_seed{seed}/step_{step}.pt")
    assert "state-names-guessed" not in result.codes.values()
    rows = rows_of(tmp_path / "repo")
    assert len({row["model_id"] for row in rows}) == 4
    assert {(row["lr"], row["seed"], row["epoch"], row["step"]) for row in rows} == {
        (lr, seed, 0, step) for lr in (0.1, 0.01) for seed in (1, 2) for step in (0, 9)
    }


def test_columns_of_a_table_become_standard_or_further_ones(tmp_path, folder):
    rows = [
        {"file": f"m{n}.safetensors", "test_acc": n / 4, "seed": n, "width": "" if n == 3 else n, "flag": n > 2,
         "word": ["True", "1", "x", "", "y"][n], "Train Fraction": 0.5, "id": f"00{n}", "nothing": ""}
        for n in range(5)
    ]  # fmt: skip
    with (tmp_path / "t.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    result = build(folder, tmp_path / "repo", table=tmp_path / "t.csv")
    for number, row in enumerate(rows_of(tmp_path / "repo")):
        assert same(row["state"], mlp(number))
        assert row["test_acc"] == number / 4
        assert row["seed"] == number
        assert row["width"] == (None if number == 3 else number)
        assert row["flag"] is (number > 2)
        assert row["word"] == (["True", "1", "x", None, "y"][number])
        assert row["train_fraction"] == 0.5
        assert row["id"] == f"00{number}"
        assert "nothing" not in row
    assert {"state-column-renamed", "state-column-empty"} <= set(result.codes.values())
    manifest = read_manifest(tmp_path / "repo", NAME)
    assert manifest.source["columns"]["width"] == "t.csv"


def test_quoted_texts_stay_texts(tmp_path):
    path = table(tmp_path / "t.csv", 'file,a,b,c\nx,"1",True,"1,5"\ny,"2",False,"q""\nr"\n')
    columns = read_table(path).columns
    assert {name: str(values.type) for name, values in columns.items()} == {
        "file": "string", "a": "string", "b": "bool", "c": "string"
    }  # fmt: skip
    assert columns["c"].to_pylist() == ["1,5", 'q"\nr']


def test_types_are_decided_over_all_values():
    assert of_texts(pa.array(["1", None, "NA", "-3"])).to_pylist() == [1, None, None, -3]
    assert of_texts(pa.array(["1", "2.5", "nan"])).type == pa.float64()
    for texts in (["True", "1"], ["NA", "NA"], ["1", "007"], ["9" * 30], ["0x10"], ["1_000"], [" 1"]):
        assert of_texts(pa.array(texts)).to_pylist() == texts
    assert of_texts(pa.array(["TRUE", "false"])).to_pylist() == [True, False]
    assert of_values([1, None, 2.5]).to_pylist() == [1.0, None, 2.5]
    assert of_values([1, "a", [1], True]).to_pylist() == ["1", "a", "[1]", "true"]
    assert of_values([2**70, 1]).type == pa.string()


def test_each_kind_of_table_says_the_same(tmp_path, folder):
    rows = [{"file": f"m{n}", "seed": n, "label": f"c{n}", "share": n / 2, "odd": bool(n % 2)} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        (tmp_path / name).write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines))
    built = []
    for ending in ("parquet", "jsonl", "csv", "tsv"):
        build(folder, tmp_path / ending, table=tmp_path / f"t.{ending}")
        built.append([{k: v for k, v in row.items() if k != "state"} for row in rows_of(tmp_path / ending)])
    assert built[0] == built[1] == built[2] == built[3]
    assert (built[0][3]["seed"], built[0][3]["label"], built[0][3]["share"], built[0][3]["odd"]) == (3, "c3", 1.5, True)


def test_a_table_is_joined_by_what_names_say(tmp_path):
    made = {f"m{n}/epoch_{e:02d}.pt": mlp(10 * n + e) for n in range(3) for e in range(2)}
    write_folder(tmp_path / "in", made)
    build(tmp_path / "in", tmp_path / "one", table=table(tmp_path / "m.csv", "model_id,lr\nm0,0.5\nm1,0.25\nm2,1\n"))
    assert [row["lr"] for row in rows_of(tmp_path / "one")] == [0.5, 0.5, 0.25, 0.25, 1.0, 1.0]
    text = "model_id,epoch,test_acc\n" + "".join(f"m{n},{e},0.{n}{e}\n" for n in range(2) for e in range(3))
    result = build(tmp_path / "in", tmp_path / "two", table=table(tmp_path / "s.csv", text))
    assert [round(row["test_acc"], 2) for row in rows_of(tmp_path / "two")] == [0.0, 0.01, 0.1, 0.11]
    reasons = {entry.model: entry.reason for entry in result.left_out}
    assert reasons == {
        "m2/epoch_00.pt": "the table has no row of it",
        "m2/epoch_01.pt": "the table has no row of it",
        "row 3 of the table": "no file is named as this row of the table says",
        "row 6 of the table": "no file is named as this row of the table says",
    }
    assert {"state-no-row", "state-no-file"} <= set(result.codes.values())


BAD = {
    "doubled files": ("file,a\nm0.safetensors,1\nm0,2\n", "rows 1 and 2 both name the file 'm0.safetensors'"),
    "missing files": ("file,a\nm0.safetensors,1\nm9.safetensors,2\n", "1 of its 2 rows name files that are not there"),
    "names of no file": ("file,a\n,1\nm0,2\n", "1 rows name no file, as row 1"),
    "two rows of one key": ("model_id,a\nm0,1\nm0,2\n", "rows 1 and 2 are both of model_id m0"),
    "one key": ("file,model_id\nm0,q\nm1,q\n", "'m0.safetensors' and 'm1.safetensors' are both model 'q' at epoch 0"),
    "reserved": ("file,weights\nm0,1\n", "column 'weights' cannot be taken: the name is reserved"),
    "reserved whatever its letters": ("file,Layout\nm0,1\n", "column 'Layout' cannot be taken"),
    "reserved underscores": ("file,a__b\nm0,1\n", "column 'a__b' cannot be taken"),
    "a path outside": ("file,a\n../m0.safetensors,1\n", "name files that are not there: '../m0.safetensors'"),
    "ragged": ("file,a\nm0\n", "Expected 2 columns, got 1"),
    "doubled columns": ("file,a,a\nm0,1,2\n", "two of its columns are called 'a'"),
    "doubled when renamed": ("file,a b,a_b\nm0,1,2\n", "two of its columns are called 'a_b'"),
    "no key": ("q,a\n1,2\n", "no column 'file', nor one of what the names of files say"),
    "no rows": ("file,a\n", "holds no rows"),
    "words for numbers": ("file,epoch\nm0,one\n", "column 'epoch' holds 'one', expected numbers"),
    "fractions": ("file,seed\nm0,1.5\n", "column 'seed' holds 1.5, expected whole numbers"),
    "an epoch below 0": ("file,epoch\nm0,-1\n", "epoch -1"),
    "groups that differ": ("file,model_id,epoch,group\nm0,a,0,x\nm1,a,1,y\n", "the group"),
    "an unprintable id": ("file,model_id\nm0,a\x1b[31m\n", "cannot be printed"),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_table_that_cannot_be_right_is_refused_on_one_line(tmp_path, folder, problem):
    text, expected = BAD[problem]
    with pytest.raises(SourceError) as raised:
        build(folder, tmp_path / "repo", table=table(tmp_path / "t.csv", text))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "repo").exists() or not list((tmp_path / "repo").rglob("*.parquet"))


def test_rows_of_missing_files_can_be_left_out(tmp_path, folder):
    path = table(tmp_path / "t.csv", "file,a\nm0.safetensors,1\nm9.safetensors,2\n")
    result = build(folder, tmp_path / "repo", table=path, on_missing="leave-out")
    assert result.rows == 1
    reasons = {entry.model: entry.reason for entry in result.left_out}
    assert reasons["m9.safetensors"] == "the table names this file, which is not there"
    assert reasons["m4.safetensors"] == "the table has no row of it"


def test_columns_can_have_roles(tmp_path, folder):
    lines = "".join(f"m{n},{'val_holdout' if n else 'train'},m{n // 2},family{n % 2}\n" for n in range(5))
    path = table(tmp_path / "t.csv", f"file,part,base,kind\n{lines}")
    build(
        folder,
        tmp_path / "repo",
        table=path,
        split_column="part",
        parent_column="base",
        group_column="kind",
        task="field",
    )
    rows = rows_of(tmp_path / "repo")
    assert [row["source_split"] for row in rows] == ["train", *["val_holdout"] * 4]
    assert [row["parent_id"] for row in rows] == ["m0", "m0", "m1", "m1", "m2"]
    assert [row["group"] for row in rows] == [row["kind"] for row in rows]
    assert {row["task"] for row in rows} == {"field"}
    splits = {}
    for split in ("train", "validation", "test"):
        for file in (tmp_path / "repo" / NAME).glob(f"{split}-*.parquet"):
            for group in pq.read_table(file, columns=["group"])["group"].to_pylist():
                splits.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    with pytest.raises(SourceError, match="--split-column 'nope'"):
        build(folder, tmp_path / "repo", table=path, split_column="nope")


def test_metadata_of_safetensors_are_columns_and_the_table_goes_before(tmp_path):
    for number in range(3):
        told = {"seed": str(number), "imagenet_class_id": f"{number}", "format": "pt", "note": "a\nb"}
        write_folder(tmp_path / "in", {f"m{number}.safetensors": mlp(number)}, metadata=told)
    build(tmp_path / "in", tmp_path / "one")
    rows = rows_of(tmp_path / "one")
    assert [(row["seed"], row["imagenet_class_id"], row["note"]) for row in rows] == [(n, n, "a\nb") for n in range(3)]
    assert "format" not in rows[0]
    build(tmp_path / "in", tmp_path / "two", table=table(tmp_path / "t.csv", "file,seed\nm0,7\nm1,8\nm2,9\n"))
    assert [row["seed"] for row in rows_of(tmp_path / "two")] == [7, 8, 9]


def test_a_document_beside_each_file_gives_columns(tmp_path):
    for number in range(3):
        write_folder(tmp_path / "in", {f"task{number}/adapter_model.safetensors": mlp(number)})
        config = {"r": 4 * number, "target_modules": ["q", "v"], "lora_dropout": 0.05, "weights": 1, "revision": None}
        (tmp_path / "in" / f"task{number}" / "adapter_config.json").write_text(json.dumps(config))
    result = build(tmp_path / "in", tmp_path / "repo", columns_from="adapter_config.json")
    rows = rows_of(tmp_path / "repo")
    assert [(row["model_id"], row["r"], row["target_modules"]) for row in rows] == [
        (f"task{n}", 4 * n, '["q", "v"]') for n in range(3)
    ]
    assert "state-column-refused" in result.codes.values()  # weights
    with pytest.raises(SourceError, match="no file of this name"):
        build(tmp_path / "in", tmp_path / "other", columns_from="config.json")


def test_selections_know_the_columns(tmp_path, folder):
    from zoo_datasets.repository.where import parse_where

    build(folder, tmp_path / "two", models=2)
    assert [row["model_id"] for row in rows_of(tmp_path / "two")] == ["m0", "m1"]
    path = table(tmp_path / "t.csv", "file,epoch,lr\n" + "".join(f"m{n},{n},0.{n}\n" for n in range(5)))
    build(folder, tmp_path / "where", table=path, where=parse_where("lr > 0.15 and epoch < 4"))
    assert [row["model_id"] for row in rows_of(tmp_path / "where")] == ["m2", "m3"]
    build(folder, tmp_path / "epochs", table=path, epochs=frozenset({1, 4}))
    assert [row["epoch"] for row in rows_of(tmp_path / "epochs")] == [1, 4]
    with pytest.raises(SourceError, match="fits the selection"):
        build(folder, tmp_path / "none", table=path, epochs=frozenset({9}))


def test_conditions_of_the_command_line_know_further_columns(tmp_path, folder):
    path = table(tmp_path / "t.csv", "file,rank,good\n" + "".join(f"m{n},{n},{n % 2 == 0}\n" for n in range(5)))
    command = ["build", str(folder), "--name", NAME, "--table", str(path), "--out", str(tmp_path / "repo"), "--where"]
    done = CliRunner().invoke(app, [*command, "rank > 1 and good"])
    assert done.exit_code == 0, done.output
    assert [row["rank"] for row in rows_of(tmp_path / "repo")] == [2, 4]
    with pytest.raises(UnknownNameError, match="'rang'; did you mean rank"):
        CliRunner().invoke(app, [*command, "rang > 1"], catch_exceptions=False)
