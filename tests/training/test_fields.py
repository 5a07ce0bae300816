"""Fields: each member is fitted to its own image, whatever its neighbours, and what is recorded is what it draws."""

import dataclasses
import json
import math

import plain
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RunError, SpecError
from zoo_datasets.evaluation.verify.run import verify_run
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.images.signals import Signals
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.module import Network
from zoo_datasets.runs.cohort import LABELS
from zoo_datasets.stacked import initialise

SIDE, TRAIN, TEST = 12, 30, 10
LAYERS = get_architecture("siren").layers(2, 1)


@pytest.fixture(scope="module")
def data():
    images = plain.tiny_images(size=28, train=TRAIN, test=TEST)
    parts = [dataclasses.replace(part, images=part.images[:, :, :SIDE, :SIDE]) for part in (images.train, images.test)]
    spec = get_image_spec("mnist", "siren")
    return ImageData(spec=spec, size=SIDE, fingerprint="fields", train=parts[0], val=None, test=parts[1])


def zoo_of(**changes):
    changes = {"epochs": 1, "checkpoints": None, "seeds": TRAIN + TEST} | changes
    return dataclasses.replace(zd.get_zoo("mnist_siren"), **changes)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return zd.train_zoo(zoo_of(), tmp_path_factory.mktemp("fields") / "run", data, models=20)


def image_of(data, seed):
    part, number = (data.train, seed - 1) if seed <= TRAIN else (data.test, seed - 1 - TRAIN)
    return part.images[number].float() / 255, int(part.labels[number])


def places():
    ticks = torch.linspace(-1, 1, SIDE)
    return torch.stack([ticks.repeat(SIDE), ticks.repeat_interleave(SIDE)], dim=1)  # column, row


def test_a_member_is_what_a_plain_loop_makes_of_its_image(data, run):
    cohort = run.cohort(0)
    member = cohort.members[3]
    start, end = (cohort.weights(epoch)[3] for epoch in (0, 1))
    module = Network(LAYERS, "none")
    module.load_state_dict(build_layout(LAYERS).unflatten(start))
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-4)
    target = image_of(data, member.seed)[0].flatten()[:, None]
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(module(places()), target)
        loss.backward()
        optimizer.step()
    ours = Network(LAYERS, "none")
    ours.load_state_dict(build_layout(LAYERS).unflatten(end))
    with torch.no_grad():
        drawn, expected = ours(places()), module(places())
    torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-3)
    error = float(nn.functional.mse_loss(drawn, target))
    assert cohort.figures(1)["train_loss"][3].as_py() == pytest.approx(error, rel=1e-4)
    assert error < 0.5 * cohort.figures(0)["train_loss"][3].as_py()


def test_a_member_depends_neither_on_its_place_nor_on_its_neighbours(data, run, tmp_path):
    few = zd.train_zoo(zoo_of(), tmp_path / "few", data, models=5)
    ids = [member.model_id for member in run.cohort(0).members]
    places_there = [ids.index(member.model_id) for member in few.cohort(0).members]
    for epoch in (0, 1):
        assert torch.equal(few.cohort(0).weights(epoch), run.cohort(0).weights(epoch)[places_there])


def test_weights_start_as_sitzmann_and_others_say():
    weights = build_layout(LAYERS).unflatten(initialise(LAYERS, torch.arange(1, 301), ["siren"] * 300))
    bounds = {
        "layer1.weight": 1 / 2, "layer1.bias": 2**-0.5, "layer2.weight": math.sqrt(6 / 32) / 30,
        "layer2.bias": 32**-0.5, "layer3.weight": math.sqrt(6 / 32) / 30, "layer3.bias": 32**-0.5,
    }  # fmt: skip
    for name, bound in bounds.items():
        assert weights[name].abs().max() <= bound
        assert weights[name].std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    with pytest.raises(SpecError, match="init siren is for linear layers with a sine between"):
        initialise(get_architecture("cnn_s").layers(1, 10), torch.arange(3), ["siren"] * 3)


def test_rows_tell_signal_label_psnr_and_convention(data, run, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    zd.build_repository(run.path, tmp_path / "repo")
    rows = [row for part in zd.load_zoo(tmp_path / "repo", "mnist_siren").values() for row in part]
    assert len(rows) == 40
    for row in rows:
        image, label = image_of(data, row["seed"])
        drawn = zd.to_module(row)(places()).detach()
        error = float((drawn.flatten() - image.flatten()).square().mean())
        assert row["psnr"] == pytest.approx(-10 * math.log10(error), abs=0.01)
        assert (row["label"], row["task"], row["step"]) == (label, "field", 100 * row["epoch"])
        number = row["seed"] - 1
        assert (row["signal_split"], row["signal_index"]) == (
            ("train", number) if number < TRAIN else ("test", number - TRAIN)
        )
        torch.testing.assert_close(zd.render(row, SIDE)[0, 0], drawn.view(SIDE, SIDE), rtol=0, atol=1e-5)
    best = max(row["psnr"] for row in rows)
    zd.build_repository(
        run.path, tmp_path / "some", reading=Reading(state_dicts=StateDictOptions(where=f"psnr >= {best - 1e-6}"))
    )
    kept = [row for part in zd.load_zoo(tmp_path / "some", "mnist_siren").values() for row in part]
    assert [row["psnr"] for row in kept] == [best]


def test_a_changed_label_or_weight_is_found(data, run, tmp_path):
    verified = verify_run(run.path, images=data)
    assert verified.ok, verified.differences
    assert verified.recomputed == 32
    other = zd.train_zoo(zoo_of(), tmp_path / "run", data, models=4)
    cohort = other.cohort(0)
    tensors, figures = cohort.tensors(1), cohort.figures(1)
    tensors[LABELS] = (tensors[LABELS] + 1) % 10
    cohort.write_epoch(1, tensors, figures)
    assert {difference.check for difference in verify_run(other.path, images=data).differences} == {"figures"}
    cohort.write_epoch(1, {name: value for name, value in tensors.items() if name != LABELS}, figures)
    with pytest.raises(RunError, match="no labels of 4 signals"):
        cohort.labels(1)


def test_a_config_is_verified_by_members_start_and_the_images_of_its_run(data, run, tmp_path):
    repo, name = tmp_path / "repo", "mnist_siren"
    zd.build_repository(run.path, repo)
    signals = Signals.prepared(data)
    verified = zd.verify_repository(repo, name, signals=signals, sample=None)
    assert verified.ok, verified.differences
    assert verified.recomputed == 40
    assert {"recipes", "start", "images", "figures"} <= {check.name for check in verified.checks}

    signals.fingerprint = "others"
    verified = zd.verify_repository(repo, name, signals=signals)
    assert ([difference.check for difference in verified.differences], verified.recomputed) == (["images"], 0)

    file = repo / "_meta" / name / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["zoo"]["lr"] = [0.001]
    file.write_text(json.dumps(manifest))
    first = zd.verify_repository(repo, name).differences[0]
    assert (first.check, "its id is none of the members" in first.message) == ("recipes", True)

    other = zd.train_zoo(zoo_of(), tmp_path / "run", data, models=4)
    cohort = other.cohort(0)
    tensors, figures = cohort.tensors(0), cohort.figures(0)
    tensors["layer1.weight"][1] += 0.01
    cohort.write_epoch(0, tensors, figures)
    zd.build_repository(other.path, tmp_path / "other")
    differences = zd.verify_repository(tmp_path / "other", name).differences
    assert [difference.check for difference in differences] == ["start"]
    assert cohort.members[1].model_id in differences[0].message


def test_what_fields_do_not_have_is_refused_before_anything_is_written(data, tmp_path):
    for changes, message in (
        ({"seeds": 41}, "seed 41 would be fitted to image 41 of 40"),
        ({"dropout": (0.5,)}, "have no dropout"),
        ({"init": ("uniform",), "label_smoothing": (0.1,)}, "have no label_smoothing"),
    ):
        with pytest.raises(SpecError, match=message):
            zd.train_zoo(zoo_of(**changes), tmp_path / "run", data)
    with pytest.raises(SpecError, match="choose how many by --models"):
        zd.train_zoo(zoo_of(), tmp_path / "run", data, limits=zd.Limits(train=5))
    assert not (tmp_path / "run").exists()


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(data, tmp_path):
    whole = zd.train_zoo(zoo_of(epochs=2), tmp_path / "whole", data, models=3)
    part = zd.train_zoo(zoo_of(epochs=2), tmp_path / "part", data, models=3, epochs=1)
    part = zd.train_zoo(zoo_of(epochs=2), tmp_path / "part", data, models=3)
    assert torch.equal(whole.cohort(0).weights(2), part.cohort(0).weights(2))


def test_a_report_shows_what_a_predictor_of_labels_got_wrong(data, tmp_path):
    made = zd.train_zoo(zoo_of(), tmp_path / "run", data, models=40)
    repo, record, page = tmp_path / "repo", tmp_path / "labels.json", tmp_path / "report.html"
    zd.build_repository(made.path, repo)

    def zoo(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        return result.exit_code, f"{result.output}{result.exception}"

    options = ("--where", "epoch == 1", "--budget", "2s", "--epochs", 2, "--seeds", 1, "--out", record)
    code, output = zoo("benchmark", repo, "mnist_siren", "--models", "statistics,probe", "--targets", "label", *options)
    assert code == 0, output
    code, output = zoo("report", repo, "mnist_siren", "--out", page, "--benchmark", record)
    assert code == 0, output
    content = json.loads(page.read_text().partition('id="content">')[2].partition("</script>")[0])
    assert len(content["sheet"]["pictures"]) == 40
    assert [result["model"] for result in content["predictors"]["results"]] == ["statistics", "probe"]
    fits = {fit["model"]: fit["outcome"]["mnist_siren"]["label"] for fit in json.loads(record.read_text())["fits"]}
    loaded = zd.load_zoo(repo, "mnist_siren", "test", where="epoch == 1")
    truth = {row["model_id"]: str(row["label"]) for row in loaded}
    assert [panel["model"] for panel in content["errors"]] == ["statistics", "probe"]
    for panel in content["errors"]:
        pairs = list(zip(truth.items(), fits[panel["model"]], strict=True))
        expected = {(model, label if label == said else f"{label} → {said}") for (model, label), said in pairs}
        shown = [entry for side in ("wrong", "right") for entry in panel[side]]
        told = {(entry["caption"].removeprefix("model ").partition(",")[0], entry["label"]) for entry in shown}
        assert told == expected
        assert panel["wrong_of"] == sum(label != said for (_, label), said in pairs)
        assert all("→" in entry["label"] for entry in panel["wrong"])
        assert all(entry["image"].startswith("data:image/png;base64,") for entry in shown)

    value = json.loads(record.read_text())
    for change, said in (
        ({"identity": "0" * 32}, "of other rows than those of"),
        ({"kind": "features"}, "give --benchmark a file of `zoo benchmark --models`"),
        ({"fits": [value["fits"][0] | {"outcome": {"mnist_siren": {"label": ["1"]}}}]}, "has not one prediction"),
        ({"settings": 3}, "is no benchmark's file"),
    ):
        record.write_text(json.dumps(value | change))
        code, output = zoo("report", repo, "mnist_siren", "--out", page, "--benchmark", record)
        assert (code, said in " ".join(output.split())) == (1, True), output
