"""Analysis against plain references, and the report in a real browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SpecError
from zoo_datasets.evaluation import analysis, population
from zoo_datasets.evaluation.benchmark.record import read_record
from zoo_datasets.evaluation.predictions import predictions, representations
from zoo_datasets.evaluation.report.content import _best, _sparse, gather
from zoo_datasets.evaluation.report.maps import _tells
from zoo_datasets.evaluation.report.page import page
from zoo_datasets.evaluation.report.parts import Extent
from zoo_datasets.evaluation.report.plots import overview
from zoo_datasets.evaluation.report.values import histogram_of
from zoo_datasets.images.prepare import load_images
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.networks.architectures import get_architecture, layout_of
from zoo_datasets.networks.module import build_module
from zoo_datasets.plotting import cover, new_figure, render
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.symmetries import canonicalize, permute

NAME = "digits_cnn_s"
LAYOUT = layout_of("cnn_s", 1, 10)
FRAME = """<!doctype html><iframe src="report.html" style="width: WIDTHpx; height: 800px; border: 0"></iframe>
<script>addEventListener("message", (event) => {
  document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: event.data }));
});</script>"""
PROBE = Path(__file__).parent / "report_probe.js"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape, seed=0):
    return torch.randint(10, shape, generator=torch.Generator().manual_seed(seed))


def test_agreement_and_kappa_are_the_usual_ones():
    predicted, labels = classes(5, 200), classes(200, seed=1)
    predicted[:, :90] = labels[:90]
    found, kappa = analysis.agreement(predicted), analysis.error_agreement(predicted, labels)
    right = (predicted == labels).int()
    for i in range(5):
        for j in range(5):
            assert found[i, j] == pytest.approx((predicted[i] == predicted[j]).double().mean().item())
            assert kappa[i, j] == pytest.approx(cohen_kappa_score(right[i], right[j]))
    assert analysis.paired_agreement(predicted, predicted[[1, 1, 2, 3, 4]])[0] == pytest.approx(found[0, 1].item())
    assert analysis.error_agreement(labels[None], labels).isnan().all()
    with pytest.raises(SpecError, match="200 and for 3 images"):
        analysis.agreement(predicted, predicted[:, :3])


def test_linear_cka_is_kornbliths_and_knows_rotations():
    first, second = draw(60, 7).double(), draw(60, 7, seed=1).double()
    rotation = torch.linalg.qr(draw(7, 7, seed=2).double()).Q
    found = analysis.linear_cka(torch.stack([first, second, 3 * first @ rotation + 1]))
    a, b = (x - x.mean(0) for x in (first, second))
    expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert found[0, 1] == pytest.approx(expected.item())
    assert found[0, 2] == pytest.approx(1)


def test_distances_in_canonical_order_are_blind_to_permutations():
    layers = get_architecture("cnn_s").layers(1, 10)
    weights = draw(1, LAYOUT.size).expand(3, -1)
    permuted = permute(weights, layers, torch.Generator().manual_seed(1))
    assert analysis.pairs_of(analysis.distances(permuted)).min() > 1
    assert analysis.pairs_of(analysis.distances(canonicalize(permuted, layers))).max() < 1e-5
    assert analysis.pairs_of(analysis.cosines(canonicalize(permuted, layers))).min() == pytest.approx(1)


def test_paths():
    line = torch.arange(4.0)[:, None] * torch.ones(3)
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    both = torch.stack([line, square])
    assert analysis.path_lengths(both).tolist() == pytest.approx([3 * 3**0.5, 3])
    assert analysis.straightness(both).tolist() == pytest.approx([1, 1 / 3])
    assert analysis.smoothness(both).tolist() == pytest.approx([1, 0])
    with pytest.raises(SpecError, match="smoothness of 2 epochs"):
        analysis.smoothness(both[:, :2])


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_predictions_are_those_of_single_modules(activation):
    data = load_images("digits", "cnn_s").limited(Limits(train=30, val=20, test=110))
    layers, weights = get_architecture("cnn_s").layers(1, 10), draw(18, LAYOUT.size) * 0.3
    found = predictions(layers, activation, weights, data, data.test)
    inner = representations(layers, activation, weights, data, data.test, images=9)
    pixels = data.normalise(data.test.images)
    for member in (0, 17):
        module = build_module("cnn_s", 1, 10, activation, 0.0)
        module.load_state_dict(LAYOUT.unflatten(weights[member]))
        with torch.no_grad():
            assert torch.equal(found[member].long(), module.eval()(pixels).argmax(dim=1))
            logits = inner[member] @ module.fc2.weight.T + module.fc2.bias
            torch.testing.assert_close(logits, module(pixels[:9]), rtol=1e-4, atol=1e-5)


def test_effects_and_boxes():
    table = pa.table(
        {name: ["x"] * 6 for name in ("init", "optimizer")}
        | {name: [0.1] * 6 for name in ("dropout", "weight_decay", "batch_size")}
        | {
            "activation": ["tanh", "relu"] * 3,
            "lr": [0.1] * 3 + [0.2] * 3,
            "momentum": [None, None, None, 0.9, 0.9, 0.9],
        }
        | {"model_id": list("abcdef"), "epoch": [1] * 6, "test_acc": [0.2, 0.8, 0.2, 0.8, 0.3, None]}
    )
    strongest, *others = population.effects(table)
    assert strongest.hyperparameter == "activation"
    values = np.array([0.2, 0.8, 0.2, 0.8, 0.3])
    groups = values[[0, 2, 4]], values[[1, 3]]
    between = sum(len(g) * (g.mean() - values.mean()) ** 2 for g in groups)
    assert strongest.explained == pytest.approx(between / ((values - values.mean()) ** 2).sum())
    assert {name: box.count for name, box in strongest.boxes.items()} == {"relu": 2, "tanh": 3}
    assert {effect.hyperparameter for effect in others} == {"lr", "momentum"}
    assert population.box([float("nan")]) is None
    found = population.box(pa.chunked_array([[1.0, None, 3.0]]))
    assert (found.count, found.low, found.median, found.high) == (2, 1, 2, 3)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder / "run", ((36, 3),))
    bad = [run.cohort(0).members[1].model_id]
    make_run(folder / "other", ((36, 3),), nan=bad)
    make_run(folder / "hyp", ((40, 2),), zoo=get_zoo("mnist_cnn_s_hyp_rand"))
    build_repository(folder / "other", folder / "repo")
    build_repository(folder / "hyp", folder / "repo")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    yield folder / "repo"
    patch.undo()


@pytest.fixture(scope="module")
def content(repo):
    """Of a zoo with hyperparameters, in the way of the command but for its benchmark."""
    out = repo.parent / "benchmark.json"
    options = ["--features", "statistics", "--targets", "test_acc,optimizer", "--out", str(out)]
    assert CliRunner().invoke(app, ["benchmark", str(repo), "mnist_cnn_s_hyp_rand", *options]).exit_code == 0
    manifest = read_manifest(repo, "mnist_cnn_s_hyp_rand")
    images = load_images("digits", "cnn_s").limited(Limits(train=30, val=20, test=30))
    return gather(repo, manifest.config, manifest, images=images, record=read_record(out), extent=Extent(pairs=12))


def test_the_command_writes_page_and_pictures(repo, tmp_path):
    forms = [word for form in ("png", "svg", "pdf") for word in (f"--{form}", str(tmp_path / form))]
    arguments = ["report", str(repo), NAME, "--out", str(tmp_path / "r.html"), *forms]
    options = ["--pairs", "6", "--trajectories", "4"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    found = json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])
    assert found["left_out"]["models"] == {"found": 36, "written": 35, "left_out": 1}
    assert "nan" in json.dumps(found["left_out"]["entries"]).lower() or found["left_out"]["entries"]
    assert [entry["label"] for entry in found["alike"]][-1].startswith("linear CKA")  # digits need no --images
    assert len(found["trajectories"]["models"]) == 4
    assert found["epochs"]["test_acc"]["boxes"]["3"]["count"] == 35
    assert "seed" not in found["map"]["columns"]  # no two models share one
    assert found["title"] == f"{NAME}: 35 models, epochs 0 to 3"
    for form, begin in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        files = {path.stem: path for path in (tmp_path / form).iterdir()}
        assert files.keys() >= {"overview", "test_acc_over_epochs", "map_by_test_acc", "agreement", "trajectories"}
        assert "map_by_seed" not in files
        assert all(path.suffix == f".{form}" and path.read_bytes().startswith(begin) for path in files.values())
    with pytest.raises(RepositoryError, match="no manifest.json"):
        CliRunner().invoke(app, ["report", str(repo), "nothing"], catch_exceptions=False)


def test_the_best_model_is_chosen_by_validation():
    table = pa.table({"model_id": list("abcd"), "epoch": [1] * 4, "val_acc": [0.8, 0.9, 0.9, None],
                      "val_loss": [0.1, 0.4, 0.3, 0.0], "test_acc": [1.0, 0.7, 0.6, 1.0]})  # fmt: skip
    assert population.best(table)["model_id"] == "c"
    assert population.best(table.slice(3)) is None
    assert _best(table) == "c at epoch 1: validation 0.9000, test 0.6000"
    assert "no row records a validation accuracy" in _best(table.slice(3))


def test_seeds_colour_a_map_only_where_models_share_them():
    assert not _tells("seed", [1, 2, 3])
    assert _tells("seed", [1, 1, 2, None])
    assert not _tells("seed", [1, 1])
    assert _tells("lr", [1, 2, 3])


@pytest.mark.parametrize(("images", "spread"), [(30, 30), (1000, 400), (1000, 3), (10_000, 77)])
def test_every_bin_of_shares_holds_equally_many_values(images, spread):
    shares = torch.arange(images - spread, images + 1).double() / images
    found = histogram_of("agreement", shares, images)
    assert sum(found["counts"]) == spread + 1
    assert len(found["counts"]) <= 40
    assert len(set(found["counts"][:-1])) <= 1  # no comb


def test_ticks_cover_what_is_drawn():
    for low, high in ((0.05, 0.962), (0.9, 0.96), (0, 1), (3, 3), (-1e-4, 2e-4), (17, 12_345)):
        _, (axes,) = new_figure(4, 3)
        cover(axes, low, high)
        ticks = axes.get_yticks()
        assert ticks[0] <= low <= high <= ticks[-1] * (1 + 1e-9)
        assert len(ticks) >= 3
        assert axes.get_ylim()[0] < ticks[0] < ticks[-1] < axes.get_ylim()[1]


def test_a_picture_is_the_same_bytes_each_time(content):
    for form in ("png", "svg", "pdf"):
        assert render(overview(content), form, 72) == render(overview(content), form, 72)


def test_twins_are_compared_with_their_parents(repo):
    """Twins made by hand: one model of the zoo with the weights of one layer at zero."""
    dense = datasets.concatenate_datasets(list(load_zoo(repo, NAME, epochs=[3]).values())).select(range(8))
    weights = np.array(dense["weights"][:], np.float32)
    weights[:, LAYOUT.slices()["fc1.weight"]] = 0
    twins = dense.remove_columns(["model_id", "parent_id", "sparsity", "weights"])
    for column, values in (
        ("model_id", [f"twin{number}" for number in range(8)]),
        ("parent_id", dense["model_id"][:]),
        ("sparsity", [0.3] * 8),
        ("weights", list(weights)),
    ):
        twins = twins.add_column(column, values, feature=dense.features[column])
    manifest = read_manifest(repo, NAME)
    images = load_images("digits", "cnn_s").limited(Limits(train=30, val=20, test=30))
    found = _sparse(repo, twins, torch.from_numpy(weights), manifest, images, 6)
    assert found["layers"]["fc1.weight"]["low"] == 1
    assert found["layers"]["fc2.weight"]["high"] == 0
    assert found["points"][0][0] == pytest.approx(0.3)
    assert sum(found["parents"]["counts"]) == 6
    assert found["parents"]["box"]["high"] <= 1


def test_a_page_holds_all_it_needs_and_nothing_of_a_zoo_runs(content):
    made = page(content | {"name": "</script><script>window.injected = true</script>"})
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import', made)
    assert made.count("<script") == 2


DARK = "@media screen and (prefers-color-scheme: dark)"


@pytest.mark.parametrize(("width", "dark"), [(1000, False), (390, True)])
def test_the_page_works_in_a_browser(content, tmp_path, width, dark):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium here; on Debian: apt-get install chromium")
    hostile = content | {"notes": ["</script><script>window.injected = true</script><img src=https://example.org/x>"]}
    made = page(hostile).replace("<main", f"<script>{PROBE.read_text()}</script><main", 1)
    assert DARK in made
    made = made.replace(DARK, "@media screen") if dark else made
    (tmp_path / "report.html").write_text(made)
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=3000", "--dump-dom"]
    # In a frame: a window of its own cannot be as narrow as a phone.
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    done = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert found["problems"] == []
    assert found["fetched"] == []
    assert not found["injected"]
    for heading in ("Figures over epochs", "Map of the zoo", "Trajectories", "Benchmark", "What was left out"):
        assert heading in found["headings"]
    assert found["circles"] == 40
    assert found["tip"].startswith("model ")
    assert "optimizer: " in found["tip"]
    assert "median" in found["boxTip"]
    assert found["recoloured"]
    assert found["otherFigure"]
    assert set(found["choices"]) >= {"test_acc", "activation", "split"}
    assert "train" in found["legend"]
    assert found["contrast"] >= 4.5  # what WCAG asks of text
    assert found["width"][0] <= found["width"][1]  # nothing sticks out of a phone
    assert found["width"][1] == width
    assert all(drawn == pytest.approx(seen, abs=1) for drawn, seen in found["charts"])
    assert found["cut"] == []
    assert (found["uncovered"], found["fewTicks"]) == ([], [])
