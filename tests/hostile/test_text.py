"""Names and notes in the files of others are text wherever they are shown: no markup, no control characters."""

import dataclasses
import html.parser
import json
import os
import re
import subprocess
import sys
import unicodedata
import warnings

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table
from tiny_runs import make_run, tell_manifest
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.cli.benchmark import print_record
from zoo_datasets.cli.progress import progress_bar, transfer_bar
from zoo_datasets.cli.shell import run_command
from zoo_datasets.errors import StorageError, UnknownNameError, ZooError
from zoo_datasets.evaluation.benchmark.record import Record
from zoo_datasets.evaluation.benchmark.run import Result, Settings
from zoo_datasets.evaluation.report.page import page
from zoo_datasets.evaluation.report.plots import write_plots
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.repository.card import read_card, write_line
from zoo_datasets.repository.card.text import page_of, table_line
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.storage.files import write_json
from zoo_datasets.terminal import Terminal, say, working
from zoo_datasets.text import json_text, markdown, markdown_cell, markdown_code, plot_text, printable

NAME = "digits_cnn_s"
# What a terminal, a browser or a reader would take for more than text, each with a word to recognise it by.
HOSTILE = {
    "closing markup": "[/w0rd]",
    "markup": "[red]w0rd[/red] [link=http://evil]x[/link]",
    "colours": "\x1b[31mw0rd\x1b[0m",
    "a title": "\x1b]0;owned\x07w0rd",
    "a cleared screen": "\x1bcw0rd\x9b2J",
    "backspaces": "evil\x08\x08\x08\x08w0rd",
    "a carriage return": "w0rd\rok  all is well",
    "a line": "w0rd\nok   checksums: all is well",
    "other lines": "w0rd\x85ok\u2028ok\x0bok",
    "another direction": "w0rd\u202egnp.exe\u2066x\u2069",
    "nothing to see": "w0\u200brd\u2060\ufeff w0rd\U000e0041\ufe0f\u3164",
    "half a pair": "w0rd\udc80\ud800",
    "a null": "w0rd\x00\x7f",
    "elements": "</script><script>alert(1)</script><img src=x onerror=alert(1)>w0rd<!-- ",
    "links": "[w0rd](javascript:alert(1)) ![x](http://evil) <http://evil> http://evil",
    "a heading": "w0rd\n\n## evil\n\n---\nconfigs: []\n---\n",
    "cells": "w0rd | 1 | 2 |\n| evil \\| 9 |",
    "code": "w0rd `` ` ``` ```\nevil",
    "marks": "<!-- yours -->w0rd<!-- /yours -->",
    "formulas": "$\\w0rd{$ $x^2$",
    "an underscore": "_w0rd_ __w0rd__",
    "emoji": ":w0rd: :smile:",
    "a format": "{w0rd} {0} %s",
}
TEXTS = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
ALL = " ".join(HOSTILE.values())
# As YAML can hold it: without halves of surrogate pairs.
WHOLE = re.sub("[\ud800-\udfff]", "\ufffd", ALL)


def assert_text(shown, *, lines=None):
    """Nothing but what is seen as it is, in a number of lines."""
    bad = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n"}
    assert not bad
    assert "\U000e0041" not in shown
    assert lines is None or shown.count("\n") == lines


@TEXTS
def test_a_text_is_on_one_line_and_stays_recognisable(text):
    assert_text(printable(text), lines=0)
    assert "w0rd" in printable(text)
    shown = [char for char in text if char.isascii() and char.isprintable()]
    assert "".join(shown) in printable(text) or not text.isprintable()
    assert printable(printable(text)) == printable(text)


def test_letters_of_all_languages_stay():
    for text in ("Zürich – ½ µ", "模型", "модель", "λ→∞ … ²", "ok 🙂", "e\u0301"):
        assert printable(text) == text
    assert printable("a\x1b[0m\u202e\udc80\x9b\U000e0041") == "a\\x1b[0m\\u202e\\udc80\\x9b\\U000e0041"


@TEXTS
def test_errors_and_warnings_are_one_line(text, capsys, monkeypatch):
    pickled = UnknownNameError("config", text, [text * 2])
    for error in (ZooError(f"{text} is bad"), StorageError(text), pickled):
        assert_text(str(error), lines=0)
        assert "w0rd" in str(error)

    def command():
        warnings.warn(text, UserWarning, stacklevel=1)
        raise ZooError(text)

    monkeypatch.setattr(sys, "argv", ["zoo"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            run_command(command)
    shown = capsys.readouterr().err
    assert_text(shown, lines=2)
    assert [line.partition(":")[0] for line in shown.splitlines()] == ["warning", "error"]


@TEXTS
def test_what_a_terminal_prints_is_text(text, tmp_path):
    with (tmp_path / "shown").open("w+", encoding="utf-8") as file:
        console = Terminal(file=file, width=300)
        say(Console(file=file, width=300), text)
        console.print(text)
        console.rule(text)
        table = Table(text, title=text, caption=text)
        table.add_row(text)
        console.print(table)
        file.seek(0)
        shown = file.read()
    assert_text(shown)
    assert shown.count("w0rd") >= 6
    assert re.search(r"^ok", shown, re.MULTILINE) is None


def record_of(text):
    """A benchmark whose every name is a text."""
    result = Result(
        test=text, target=text, kind="number", scale="linear", feature=text, probe=text, scores={}, baseline=0.0,
        chosen={}, rows=1, models=1,
    )  # fmt: skip
    counts = ({"zoo": text, "split": text, "models": 1},)
    return Record(
        settings=Settings(train=text, tests=(text,)), rows=counts, skipped={text: text}, left_out=1, identity="",
        results=(result,),
    )  # fmt: skip


@TEXTS
def test_a_table_of_results_shows_text(text, tmp_path):
    with (tmp_path / "shown").open("w+", encoding="utf-8") as file:
        print_record(record_of(text), Terminal(file=file, width=600))
        file.seek(0)
        shown = file.read()
    assert_text(shown)
    assert shown.count("w0rd") >= 6


@TEXTS
def test_bars_show_text(text, tmp_path):
    with (tmp_path / "shown").open("w+", encoding="utf-8") as file:
        console = Terminal(file=file, width=300, force_terminal=True, color_system=None, legacy_windows=False)
        with transfer_bar(console, "building", "states") as (fetched, advance):
            fetched(text, 1, 2)
            advance(1, 2)
        with progress_bar(console, "checking", "files") as advance:
            advance(1, 2)
        with working(console, text) as show:
            show(text)
        file.seek(0)
        shown = file.read()
    # The bars' own: the cursor is hidden, moved, lines are cleared.
    assert_text(re.sub(r"\x1b\[\??\d*[A-Za-z]|\r", "", shown))
    assert "w0rd" in shown


@TEXTS
def test_json_holds_the_very_text(text, tmp_path):
    write_json(tmp_path / "a.json", {text: [text, 1.5]})
    written = (tmp_path / "a.json").read_bytes().decode()
    assert_text(written)
    assert json.loads(written) == {text: [text, 1.5]}
    assert json_text({"Zürich": [1]}, indent=2) == '{\n  "Zürich": [\n    1\n  ]\n}'


@TEXTS
def test_markdown_shows_text(text):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for source in (f"on {markdown(text)}.", f"on {markdown_code(text)}."):
        assert_text(source, lines=0)
        assert [token.type for token in parser.parse(source)] == ["paragraph_open", "inline", "paragraph_close"]
        (inline,) = (token.children for token in parser.parse(source) if token.type == "inline")
        assert {child.type for child in inline} <= {"text", "code_inline"}
        assert "w0rd" in "".join(child.content for child in inline)
        if text.isprintable() and "_" not in text:  # nothing of it is lost
            assert " ".join(text.split()) in "".join(child.content for child in inline)
    table = f"| a | b |\n|---|---|\n| {markdown_cell(text)} | 7 |\n| {markdown_cell(text)} | 8 |\n"
    tokens = parser.parse(table)
    cells = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "td_open"]
    assert (len(cells), cells[1::2]) == (4, ["7", "8"])
    assert "w0rd" in cells[0]


def test_plain_words_need_no_code():
    for text in ("kaiming_uniform, normal", "weights are not finite (the model diverged)", "0.001", "50 % of 10/20"):
        assert markdown(text) == text
    assert markdown_code("a`b") == "``a`b``"
    assert markdown_cell("a|b \\| c") == "`a\\|b \\\\x7c c`"


@TEXTS
def test_plots_take_no_formulas_and_lose_no_label(text):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    axes.plot([1], label=plot_text(text))
    (entry,) = axes.legend().get_texts()
    shown, is_formula = entry._preprocess_math(entry.get_text())
    assert not is_formula
    assert printable(text).strip() == shown.strip()


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A repository whose manifest, card and rows were written by somebody hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    bad = make_run(folder / "run", ((36, 2),)).cohort(0).members[1].model_id
    make_run(folder / "other", ((36, 2),), nan=[bad])
    repo = folder / "repo"
    build_repository(folder / "other", repo)
    file = repo / "_meta" / NAME / "manifest.json"
    value = json.loads(file.read_text())
    value["left_out"] = [{"model": text, "epochs": [1], "reason": text} for text in HOSTILE.values()]
    value["zoo"] |= {"images": ALL, "activation": list(HOSTILE.values()), "scheduler": ALL, "doi": ALL}
    value["source"] |= {"kind": ALL}
    file.write_text(json.dumps(value))
    surrogates = re.compile("[\ud800-\udfff]")
    hostile = [surrogates.sub("", text) for text in HOSTILE.values()]
    for path in sorted((repo / NAME).glob("*.parquet")) + sorted((repo / f"{NAME}-meta").glob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        ids = table["model_id"].to_pylist()
        columns = {
            "model_id": [f"{hostile[int(model[:4], 16) % len(hostile)]} {model}" for model in ids],
            "init": [hostile[int(model[:4], 16) % 8] for model in ids],
            "images": ["".join(hostile)] * len(ids),
        }
        for name, values in columns.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(name), pa.array(values, pa.string()))
        pq.write_table(table, path)
    tell_manifest(repo, NAME)
    card = repo / "README.md"
    block = {"pretty_name": WHOLE, "license": WHOLE, "evil": {WHOLE: [WHOLE]}}
    kept = re.sub(r"^(license|pretty_name): .*\n", "", card.read_text(), flags=re.MULTILINE)
    card.write_text(kept.replace("---\n", f"---\n{yaml.safe_dump(block)}", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield repo


COMMANDS = """
import json, sys
from zoo_datasets.cli.app import main
for arguments in json.loads(sys.argv.pop()):
    sys.argv = ["zoo", *arguments]
    try:
        main()
    except SystemExit as done:
        print("exit", done.code, flush=True)
"""


def test_commands_print_text_also_in_a_c_locale(repo, tmp_path):
    """Each place in one process whose streams are ASCII; what stands there for each command is one exit code."""
    odd = tmp_path / "[/up]\x1b[31m\u202e\n$x_[a]"
    odd.mkdir(parents=True)
    undecodable = odd / os.fsdecode(b"[/x]\xff")
    built = tmp_path / "\x1b\u202e\nrepo"  # brackets and $ are patterns for `datasets`, and refused
    spec = odd / "[spec].yaml"
    spec.write_text("name: x\nimages: '[/up]\udc80'\n", errors="backslashreplace")
    run = [NAME, "--models", "2", "--epochs", "1", "--limit-train", "20", "--limit-val", "10", "--limit-test", "10"]
    commands = [
        (["list"], 0),
        (["report", "--help"], 0),
        (["train", *run, "--path", "torch", "--out", odd / "[b]"], 0),
        (["train", *run, "--path", "torch", "--out", odd / "[b]", "--dry-run"], 0),
        (["train", *run, "--path", "torch", "--out", undecodable], 1),
        (["verify", undecodable, NAME], 1),
        (["train", *run, "--images", odd / "[/c]"], 1),
        (["train", odd], 1),
        (["train", spec], 1),
        (["build", odd / "[b]", "--out", odd / "repo"], 1),
        (["build", odd / "[b]", "--out", built], 0),
        (["build", odd / "missing", "--out", odd / "repo"], 1),
        (["info", built], 0),
        (["verify", built, NAME], 0),
        (["export", odd / "[b]", "--out", odd / "states"], 0),
        (["verify", repo, NAME, "--files-only"], 1),
        (["verify", repo, odd.name], 1),
        (["info", repo], 0),
        (["info", repo, "--json"], 0),
        (["info", repo, NAME], 0),
        (["info", repo, NAME, "--json"], 0),
        (["export", repo, "--out", odd / "x"], 1),
        (["push", repo, "somebody/zoos"], 1),
        (["list", "\x1b[31m\udcff"], 1),
        (["\u202e[/x]"], 2),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "HF_DATASETS_CACHE": str(tmp_path)}
    given = json.dumps([[os.fsdecode(part) for part in arguments] for arguments, _ in commands])
    done = subprocess.run([sys.executable, "-c", COMMANDS, given], capture_output=True, env=environment, timeout=120)
    output, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert_text(output)
    assert_text(errors)
    assert "Traceback" not in errors
    assert [int(code) for code in re.findall(r"^exit (\d+)$", output, re.MULTILINE)] == [code for _, code in commands]
    assert "zoo-datasets[umap]" in output
    # The folder is named in full, as escapes, and no line begins in the middle of its name.
    assert errors.count(r"[/up]\x1b[31m\u202e\n$x_[a]/[b]") >= 2
    assert errors.count(r"[/x]\udcff") >= 2
    assert "w0rd" in output
    assert re.search(r"^(ok   checksums: all is well|\| evil|## evil)", output + errors, re.MULTILINE) is None


class Elements(html.parser.HTMLParser):
    """The elements of a page, and the text of its data."""

    def __init__(self):
        super().__init__()
        self.elements, self.data, self._inside = [], "", False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))
        self._inside = ("id", "content") in attrs

    def handle_data(self, data):
        self.data += data if self._inside else ""

    def handle_endtag(self, tag):
        self._inside = False


def elements(text):
    parser = Elements()
    parser.feed(text)
    return parser.elements, json.loads(parser.data)


def test_a_report_holds_text_and_no_element_of_the_zoo(repo, tmp_path):
    write_json(tmp_path / "record.json", record_of(ALL).to_dict())
    arguments = ["report", str(repo), NAME, "--out", str(tmp_path / "r.html"), "--pairs", "6", "--trajectories", "4"]
    options = ["--benchmark", str(tmp_path / "record.json")]
    done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_bytes().decode()
    assert_text(text)
    found, content = elements(text)
    empty = {"name": "", "notes": []}
    assert found == elements(page(empty))[0]
    assert [reason for _, _, reason in content["left_out"]["entries"]] == [
        printable(re.sub("[\ud800-\udfff]", "\ufffd", text)) for text in HOSTILE.values()
    ]
    assert "w0rd" in dict(content["facts"])["images"]
    assert content["benchmark"]["skipped"] == {printable(WHOLE): printable(WHOLE)}
    assert {text for text in content["map"]["columns"]["init"] if "red" in text}


@TEXTS
def test_a_page_and_its_plots_take_any_name(text, tmp_path):
    name = f"{text}@CONTENT@ @JS@"
    made = page({"name": name})
    assert_text(made)
    found, content = elements(made)
    assert (found, content["name"]) == (elements(page({"name": ""}))[0], printable(name))
    if text not in (HOSTILE["formulas"], HOSTILE["a line"], HOSTILE["an underscore"]):
        return  # drawing is slow
    places = np.arange(3.0).tolist()
    columns = {"init": [text, "_b", None]}
    effect = {"hyperparameter": "init", "explained": 1.0, "boxes": {text: {"quantiles": [*places, 3, 4]}}}
    content = {
        "name": text, "epochs": {}, "effects": [effect], "trajectories": None,
        "map": {"models": [1, 2, 3], "x": places, "y": places, "labels": ["x", "y"], "columns": columns},
    }  # fmt: skip
    assert [file.name for file in write_plots(content, tmp_path)] == ["map_by_init.png", "hyperparameters.png"]


def test_a_card_keeps_its_form_and_its_yaml(repo):
    write_line(repo, read_manifest(repo, NAME))
    text = (repo / "README.md").read_bytes().decode()
    assert_text(text)
    block, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    data = yaml.safe_load(block)
    assert (data["license"], data["pretty_name"], data["evil"]) == (WHOLE, WHOLE, {WHOLE: [WHOLE]})
    assert {config["config_name"] for config in data["configs"]} == {NAME, f"{NAME}-meta"}
    assert read_card(repo).data.to_dict()["pretty_name"] == WHOLE
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["Model zoos", "Citation"]
    blocks = [token for token in tokens if token.type == "html_block"]
    assert all(re.fullmatch(r"<!-- [\w /.]+ -->\s*", block.content) for block in blocks)
    children = [child for token in tokens for child in token.children or ()]
    assert not [child for child in children if child.type == "html_inline"]
    links = [child.attrs["href"] for child in children if child.type == "link_open"]
    assert set(links) == {"https://creativecommons.org/licenses/by/4.0/", f"_meta/{NAME}/README.md"}
    assert len([token for token in tokens if token.type == "td_open"]) == 7
    page = (repo / "_meta" / NAME / "README.md").read_bytes().decode()
    assert_text(page)
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    assert not [token for token in tokens if token.type == "html_block"]
    assert not [child for token in tokens for child in token.children or () if child.type == "html_inline"]
    cells = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "td_open"]
    reasons = cells[-3 * 21 :]
    assert reasons[1::3] == ["1"] * 20 + [""]
    assert all("w0rd" in reason for reason in reasons[:60:3])


@TEXTS
def test_a_page_of_any_reason_has_the_same_tokens(repo, text):
    """Also of names of splits, plots and architectures, which a manifest of others may hold."""
    manifest = read_manifest(repo, NAME)

    def tokens(text):
        changed = dataclasses.replace(
            manifest, network=NetworkKind(text, 1, 10), zoo={"images": text, "doi": text, "lr": [text], "seeds": 3},
            source={"kind": text, "limits": {text: text}}, left_out=(LeftOut(model=text, epochs=(1,), reason=text),),
            meta=tuple(dataclasses.replace(shard, split=text) for shard in manifest.meta), plots=(f"{NAME}/{text}",),
        )  # fmt: skip
        page = f"{page_of(changed)}\n| |{' |' * 6}\n{'|---' * 7}|\n{table_line(changed)}\n"
        assert_text(page)
        found = MarkdownIt("commonmark").enable("table").parse(page)
        inline = [child.type for token in found for child in token.children or () if child.type != "softbreak"]
        return [token.type for token in found], {kind for kind in inline if kind not in ("text", "code_inline")}

    assert tokens(text) == tokens("word")
