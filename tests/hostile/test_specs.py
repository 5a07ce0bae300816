"""YAML of strangers, in specs of zoos and in cards: bounded in size, depth and what its aliases stand for."""

import random
import re
import subprocess
import sys

import pytest
import yaml

from zoo_datasets.documents import MAX_DEPTH, check_yaml, parse_json, parse_yaml
from zoo_datasets.errors import DocumentError, RepositoryError, SpecError, ZooError
from zoo_datasets.repository.card import parse_card
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import read_zoo, zoo_from_dict

GOOD = """\
name: mine
images: digits
architecture: cnn_s
epochs: 2
activation: [tanh, relu]
init: uniform
optimizer: adam
lr: 1.0e-3
weight_decay: 0.0
seeds: 4
"""


def bomb(field="j"):
    levels = [f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)]
    return "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(levels).replace("j: ", f"{field}: ")


def merges():
    first = "x0: &x0 {" + ",".join(f"k{n}: 1" for n in range(10)) + "}\n"
    return first + "".join(f"x{n + 1}: &x{n + 1} {{<<: [{','.join([f'*x{n}'] * 9)}]}}\n" for n in range(9))


REFUSED = {
    "aliases of aliases": (bomb(), "holds more than 100,000 values"),
    "aliases in a field": (bomb("lr"), "holds more than 100,000 values"),
    "merged mappings": (merges(), "holds more than 100,000 values"),
    "an alias of what it stands in": ("&a [*a]", "alias 'a' stands within what it names"),
    "depth": ("a: " + "[" * 20_000 + "]" * 20_000, f"at most {MAX_DEPTH} levels"),
    "depth without brackets": ("\n".join(" " * n + "a:" for n in range(200)), f"at most {MAX_DEPTH} levels"),
    "digits": ("epochs: " + "9" * 5000, "a number of 5,000 characters"),
    "sexagesimals": ("epochs: 1" + ":1" * 100_000, "a number of 200,001 characters"),
    "hexadecimals": ("epochs: 0x" + "f" * 100_000, "a number of 100,002 characters"),
    "a tag of Python": ("a: !!python/object/apply:os.system [touch executed]", "holds a tag"),
    "a tag of a number": ("a: !!int '" + "9" * 5000 + "'", "holds a tag"),
    "a key twice": (GOOD + "lr: 0.1\n", "key 'lr' stands twice"),
    "half a pair": ('a: "\\ud800"', "not valid YAML"),
    "a date that is none": ("a: 2001-99-99", "not valid YAML"),
    "a list as a key": ("? [a]\n: b", "not valid YAML"),
    "control characters": ("a: \x00", "not valid YAML"),
    "too many values": ("- [0" + ",0" * 200_000 + "]", "holds more than 100,000 values"),
    "too many characters": ("a: '" + "x" * 10_000_000 + "'", "more than 8,388,608 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_specs_beyond_the_bounds_are_refused_at_once(case, tmp_path, monkeypatch):
    text, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError, match=rf"mine\.yaml could not be read as YAML: .*{re.escape(message)}"):
        read_zoo(tmp_path / "mine.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ("a key twice", "too many characters")])
def test_cards_beyond_the_bounds_are_refused_at_once(case):
    text, _ = REFUSED[case]
    with pytest.raises(RepositoryError, match=r"README\.md: its YAML block could not be read: .*repair or delete it"):
        parse_card(f"---\n{text}\n---\n", "README.md")


@pytest.mark.parametrize(
    "block",
    [
        "- a",
        "5",
        "configs: [1]",
        "configs: {a: 1}\ndataset_info: 7",
        "tags: [[a]]",
        "dataset_info:\n- config_name: z\n  splits: [{name: train, num_examples: -1}]",
        "dataset_info:\n- config_name: z\n  splits: [{name: train, num_examples: 99999999999999999999}]",
        "dataset_info:\n- config_name: z\n  splits: 5",
        "1: 2",
    ],
)
def test_cards_of_another_form_say_what_is_wrong(block):
    with pytest.raises(RepositoryError, match=r"^README\.md: .*(expected|should|repair)"):
        parse_card(f"---\n{block}\n---\n", "README.md")


def test_aliases_that_repeat_little_are_read():
    text = GOOD.replace("[tanh, relu]", "&both [tanh, relu]") + "dropout: &none [0.0]\n"
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}, d: 2}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 2}}
    assert zoo_from_dict(parse_yaml(text), "mine").points == 2


def test_the_good_spec_is_read_as_a_plain_loader_reads_it():
    assert parse_yaml(GOOD) == yaml.safe_load(GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 10**18}, "epochs: expected at most 1,000,000"),
        ({"batch_size": 10**18}, "batch_size: expected at most"),
        ({"seeds": 1_000_000}, "are 2,000,000 models, at most 500,000 expected"),
        ({"lr": [n / 1e6 for n in range(1, 2000)], "weight_decay": [n / 1e6 for n in range(2000)]}, "models, at most"),
        ({"entropy": 10**400}, "entropy"),
        ({"seeds": float("nan")}, "seeds"),
        ({"lr": float("nan")}, "lr: expected above 0"),
        ({"name": "x" * 10_000 + "/"}, "name"),
        ({"x" * 1000: 1}, "unknown field"),
        ({"lr": [["x"] * 100_000]}, "valid number"),
    ],
)
def test_numbers_of_specs_are_within_their_ranges(change, message):
    with pytest.raises(SpecError, match=message) as caught:
        zoo_from_dict(yaml.safe_load(GOOD) | change, "mine.yaml")
    assert len(str(caught.value)) < 25_000


def test_random_seeds_are_drawn_as_before():
    zoo = zoo_from_dict(yaml.safe_load(GOOD) | {"seed_kind": "random", "entropy": 42, "seeds": 50}, "mine")
    seeds = [member.seed for member in members_of(zoo)]
    assert len(set(seeds)) == 100


def test_mutated_specs_are_zoos_or_refused(tmp_path):
    generator = random.Random(3)
    pieces = ["&a ", "*a", "[", "]", "{", "}", "!!", "<<: ", "- ", ": ", "\n", "9" * 100, "\x00", "'", '"', "|", "..."]
    refused = []
    for _ in range(400):
        text = GOOD
        for _ in range(generator.choice((1, 2, 4))):
            at = generator.randrange(len(text))
            text = text[:at] + generator.choice(pieces) + text[at + generator.choice((0, 1, 3)) :]
        (tmp_path / "mine.yaml").write_text(text)
        try:
            read_zoo(tmp_path / "mine.yaml")
        except ZooError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all("mine.yaml" in message for message in refused)


def test_nothing_costs_memory_or_hangs(tmp_path):
    """What once took minutes and gigabytes, in a process that has neither."""
    (tmp_path / "mine.yaml").write_text(bomb("lr"))
    (tmp_path / "merges.yaml").write_text(merges())
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from zoo_datasets.documents import parse_yaml, parse_json
from zoo_datasets.errors import DocumentError
texts = [open(path).read() for path in sys.argv[1:]] + ["x: 1" + ":1" * 4_000_000, "{" * 1_000_000, "- " * 1_000_000]
refused = 0
json_texts = ["[" * 10_000_000, "[" + "[]," * 5_000_000 + "1]", "9" * 10_000_000]
for read, given in [(parse_yaml, texts), (parse_json, json_texts)]:
    for text in given:
        try:
            read(text)
        except DocumentError:
            refused += 1
print(refused)
"""
    paths = [str(tmp_path / name) for name in ("mine.yaml", "merges.yaml")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "8"), done.stderr


@pytest.mark.parametrize(
    "text", ["", "[", "{'a': 1}", "\ufeff{}", b"\xff", b"\xff\xfe\x00", "[1,]", "NaN1", "9" * 20, "[" * 100]
)
def test_json_that_is_none_says_so(text):
    with pytest.raises(DocumentError, match="^it"):
        parse_json(text)


def test_json_within_the_bounds_is_read():
    assert parse_json(b'{"a": [1, 2.5, null, "\\u00e9"], "b": 18446744073709551615}') == {
        "a": [1, 2.5, None, "é"], "b": 2**64 - 1,
    }  # fmt: skip
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json('["\\ud800", "\\ud83d\\ude00"]') == ["\ufffd", "\U0001f600"]
    check_yaml("")
