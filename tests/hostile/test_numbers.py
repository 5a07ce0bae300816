"""Numbers of strangers: out of range they are refused on one line, and cost neither time nor memory."""

import http.server
import random
import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from safetensors.torch import save_file

import zoo_datasets as zd
from zoo_datasets.builders import build_repository
from zoo_datasets.builders.containers.remote_tree import _entry, _mark
from zoo_datasets.builders.sources.raw.results import parse_results
from zoo_datasets.cli.shell import numbers
from zoo_datasets.errors import DownloadError, RunError, SpecError, ZooError
from zoo_datasets.loading.exporting import HEADER_KEY, load_exported
from zoo_datasets.loading.row_groups import StreamReader
from zoo_datasets.repository.where import parse_where
from zoo_datasets.storage.ranges import RangeCache
from zoo_datasets.storage.remote import Http, HttpFile, _seconds, shown
from zoo_datasets.training.engines.processes import Processes

ROW = {
    "architecture": "cnn_s", "in_channels": 1, "classes": 10, "activation": "tanh", "dropout": 0.0,
    "weights": [0.0] * 2464,
}  # fmt: skip
ODD = (
    None, True, -1, 0, 5, 1.5, 10**12, 10**30, 10**400, 1e300, float("nan"), float("inf"), "x", "9" * 5000, b"1", [],
    [1], {}, object(), "\ud800",
)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("dropout", 5, r"dropout=5: expected a rate from 0 to 1"),
        ("dropout", float("nan"), r"dropout=nan: expected a rate"),
        ("dropout", "x", r"dropout='x': expected a rate"),
        ("in_channels", "x", r"in_channels='x': expected a whole number from 1 to"),
        ("in_channels", 10**30, r"in_channels=1000000000000000000000000000000: expected a whole number"),
        ("in_channels", -1, r"in_channels=-1: expected"),
        ("classes", 10**9, r"classes=1000000000: expected"),
        ("classes", float("nan"), r"classes=nan: expected"),
        ("architecture", 5, r"no architecture named '5'"),
        ("activation", {}, r"no activation named '\{\}'"),
        ("weights", "abc", r"weights hold 'abc', expected 2464 numbers"),
        ("weights", [None] * 2464, r"weights hold \[None, .*expected 2464 numbers"),
    ],
)
def test_a_row_that_is_no_network_says_which_column(column, value, message):
    with pytest.raises(ZooError, match=message):
        zd.to_module(ROW | {column: value})


def test_mutated_rows_are_networks_or_refused():
    generator = random.Random(0)
    refused = []
    for _ in range(200):
        row = ROW | {generator.choice(list(ROW)): generator.choice(ODD) for _ in range(generator.choice((1, 2)))}
        try:
            assert torch.isfinite(zd.to_module(row)(torch.zeros(1, 1, 28, 28))).all()
        except ZooError as error:
            refused.append(str(error))
    assert len(refused) > 150
    assert max(map(len, refused)) < 500
    with pytest.raises(SpecError, match="expected one row"):
        zd.to_module(5)


@pytest.mark.parametrize(
    "text",
    [
        f"seed == {'9' * 400}",
        f"seed == {2**63}",
        f"seed == -{2**64}",
        f"lr < {'9' * 309}",
        f"seed == 0x{'f' * 400}",
        "lr < 1e999",
        "-1e999 < lr",
        'activation == "\ud800"',
        "(" * 2000 + "seed == 1" + ")" * 2000,
        "not " * 1000 + "seed == 1",
        "-" * 3000 + "1 == seed",
        f"seed in ({'1,' * 3000})",
        "seed == 1j",
        "\x00seed == 1",
    ],
)
def test_conditions_beyond_the_bounds_are_refused(text):
    with pytest.raises(SpecError, match="expected|not understood") as caught:
        parse_where(text)
    message = str(caught.value)
    assert len(message) < 400
    message.encode()  # it can be printed


def test_conditions_within_the_bounds_still_work():
    deep = parse_where("not " * 20 + "seed == 1")
    assert pa.table({"seed": [1, 2]}).filter(deep.expression()).num_rows == 1
    edges = parse_where(f"seed <= {2**63 - 1} and seed >= -{2**63} and lr < 1e300")
    table = pa.table({"seed": [2**63 - 1, 0], "lr": [0.1, 1.0]})
    assert table.filter(edges.expression()).num_rows == 2
    wide = parse_where(f"seed in ({'1,' * 1900})")
    assert pa.table({"seed": [1, 2]}).filter(wide.expression()).num_rows == 1


@pytest.mark.parametrize("text", ["0-99999999999", "9" * 5000, "1000001", "-1", "²", "1-²", "1e3", ""])
def test_epochs_of_the_command_line_are_bounded(text):
    with pytest.raises(typer.BadParameter, match="expected numbers as"):
        numbers(text)


def test_epochs_that_overlap_are_counted_once():
    assert numbers(",".join(["0-100000"] * 10_000) + ",7") == list(range(100_001))


@pytest.mark.parametrize("epochs", [[10**40], range(10**12), [-1], [1.5], ["x"], [], [[1]]])
def test_epochs_to_load_are_bounded(epochs, tmp_path):
    with pytest.raises(SpecError, match="expected a list of whole numbers from 0 to 1,000,000"):
        zd.load_zoo(tmp_path, "zoo", epochs=epochs)


@pytest.mark.parametrize(
    "url", ["http://[::1/z.zip", "http://[x]/z.zip", "http://\u2100/z.zip", f"http://{'a' * 300}/z.zip",
            "file://[::1/z.zip", "s3://[x/z.zip", "zip::http://[/a", "http://a:99999/z.zip", "http:///z.zip"]
)  # fmt: skip
def test_what_is_no_url_is_refused(url, tmp_path):
    with pytest.raises(ZooError) as caught:
        build_repository(url, tmp_path / "repo")
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_mutated_urls_are_shown_or_refused():
    generator = random.Random(1)
    refused = 0
    for _ in range(2000):
        url = list("http://user:secret@[::1]:80/a%20b.zip?token=secret")
        for _ in range(generator.choice((1, 2, 5))):
            url[generator.randrange(4, len(url))] = generator.choice("[]:/@%?#\u2100\x00 \ud8009")
        try:
            shown("".join(url))
        except DownloadError:
            refused += 1
    assert refused > 100


@pytest.fixture
def answer():
    """A server of one answer: (status, headers) by attribute."""
    told = SimpleNamespace(status=200, headers={}, url="", asked=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            told.asked += 1
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    told.url = f"http://127.0.0.1:{server.server_port}/z.zip"
    yield told
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": f"bytes 0-0/{'9' * 5000}", "Content-Length": "1"}),
        (206, {"Content-Range": f"bytes 0-0/{'9' * 25}", "Content-Length": "1"}),
        (200, {"Content-Length": "9" * 5000}),
        (200, {"Content-Length": "5, 6"}),
        (302, {"Location": "http://[::1/z.zip"}),
        (302, {"Location": f"http://127.0.0.1:{'9' * 5000}/z.zip"}),
    ],
)
def test_answers_that_claim_too_much_are_refused_at_once(answer, status, headers):
    answer.status, answer.headers = status, headers
    with pytest.raises(DownloadError, match=r"claims a size of .* digits|could not be asked for"):
        HttpFile.probe(Http(), answer.url)
    assert answer.asked == 1


def test_times_that_servers_tell_are_bounded():
    for text in ("9" * 5000, "nan", "Mon, 01 Jan 9999 00:00:00 +9999", f"Mon, {'9' * 5000} Jan 2000 00:00:00 GMT", "²"):
        assert _seconds(text) >= 0
    for version in (
        "Fri, 31 Dec 9999 23:59:59 GMT",
        f"Mon, 01 Jan {'9' * 5000} 00:00:00 GMT",
        "Mon, 01 Jan 1900 00:00:00",
    ):
        assert 0 <= _mark(SimpleNamespace(version=version)) < 1 << 63


@pytest.mark.parametrize("size", [1e400, float("nan"), -5, 10**30, [], {}, True])
def test_sizes_of_listings_are_bounded(size):
    item = {"name": "a", "type": "file", "size": size}
    if size is True:
        assert _entry(item).size == 1
        return
    with pytest.raises((ValueError, TypeError)):  # which the listing reports
        _entry(item)


def test_a_journal_of_ranges_believes_no_number_beyond_the_file(tmp_path):
    (tmp_path / "ranges").write_text(f"0 {'9' * 5000}\n0 11\n2 4\n-1 3\n5 x\n5 x 7\n")
    cache = RangeCache(SimpleNamespace(size=10, version="v", shown="x"), tmp_path)
    assert cache._have == [(2, 4)]


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        '{"format": 1, "row": ' + "9" * 5000 + "}",
        '{"format": 1, "row": {"architecture": ["a"], "in_channels": 1, "classes": 10}}',
        '{"format": 1, "row": {"architecture": "cnn_s", "in_channels": 1e300, "classes": 10}}',
        '{"format": 1, "row": {"architecture": "cnn_s", "in_channels": "x", "classes": NaN}}',
        '{"format": 1, "row": 5}',
        '{"format": [[[]]]}',
        "\ud800".encode("utf-8", "replace").decode(),
    ],
)
def test_headers_of_exported_rows_are_bounded(header, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={HEADER_KEY: header})
    with pytest.raises(ZooError, match=r"x\.safetensors"):
        load_exported(tmp_path / "x.safetensors")


def test_lines_of_results_are_read_or_counted_as_broken():
    lines = (
        b"[" * 100_000,
        b'{"training_iteration": ' + b"9" * 5000 + b"}",
        b'{"training_iteration": 1, "a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"training_iteration": 1e400}',
        b'{"training_iteration": 10000000}',
        b'{"training_iteration": 3, "test_acc": 1e400, "path": "\\ud800"}',
    )
    results = parse_results(b"\n".join(lines))
    assert list(results.epochs) == [3]
    assert results.broken == 5
    assert set(results.epochs[3]) == {None}  # an accuracy of infinity is none


def test_footers_that_claim_too_much_are_refused(tmp_path):
    table = pa.table({"weights": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "epoch": pa.array([0], pa.int32())})
    pq.write_table(table, tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    generator = random.Random(2)
    refused = 0
    for number in range(150):
        data = bytearray(good)
        for _ in range(generator.choice((1, 2, 4))):
            data[generator.randrange(footer, len(data))] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        if number % 3 == 0:  # a number of 64 bits
            at = generator.randrange(footer, len(data) - 18)
            data[at : at + 9] = b"\xfe" + b"\xff" * 7 + b"\x7f"
        (tmp_path / "bad.parquet").write_bytes(data)
        try:
            _stream(tmp_path / "bad.parquet")
        except ZooError:
            refused += 1
    assert refused > 100


def _stream(path):
    from datasets import DownloadConfig

    from zoo_datasets.loading.batches import batches_of
    from zoo_datasets.loading.row_groups import StreamFiles

    source = StreamFiles(
        files=(str(path),), columns=None, filter=None, filter_columns=(), cut=None, download=DownloadConfig()
    )
    for batch in batches_of(StreamReader(source, ["weights", "epoch"]), batch_size=4, shuffle=True):
        assert batch["weights"].shape[0] <= 4


@pytest.mark.parametrize("text", ["x", "9" * 5000, "-3", "0", ""])
def test_numbers_of_the_environment_are_bounded(text, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    with pytest.raises(RunError, match=r"LOCAL_WORLD_SIZE is .*expected 1 or more"):
        Processes()
