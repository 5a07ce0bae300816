"""The card: YAML that datasets and the Hub read, and text that keeps what a person wrote."""

import datasets
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from raw_zoos import SEED_ZOO, TWIN_ZOO, make_twins, make_zoo
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import RepositoryError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.repository.card import YOURS, configs_of, read_card, zoos_of
from zoo_datasets.repository.listing import files_among, version_of
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits, members_of
from zoo_datasets.specs.zoos import get_zoo

NAME = "digits_cnn_s"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def repo(tmp_path):
    make_run(tmp_path / "run", ((12, 2),), limits=Limits(train=500))
    build_repository(tmp_path / "run", tmp_path / "repo")
    return tmp_path / "repo"


def test_yaml_lists_every_shard_as_load_dataset_finds_it(repo):
    card = read_card(repo)
    manifest = read_manifest(repo, NAME)
    files = [file.relative_to(repo).as_posix() for file in (repo / NAME).iterdir()]
    assert {file for file in files if not file.endswith(".parquet")} <= {f"{NAME}/.lock"}
    listed = files_among(configs_of(card)[NAME], files)
    assert sorted(listed) == sorted((shard.split, shard.path) for shard in manifest.shards)
    assert configs_of(card)[NAME]["version"] == version_of(manifest.shards)
    assert card.data.get("dataset_info") is None
    assert card.data.license == "cc-by-4.0"
    assert card.data.size_categories == ["n<1K"]
    loaded = load_dataset(str(repo), NAME)
    assert manifest.splits == loaded.num_rows
    light = load_dataset(str(repo), f"{NAME}-meta")
    for split, rows in light.items():
        assert rows[:] == loaded[split].remove_columns("weights")[:]
    assert next(iter(configs_of(card))) == f"{NAME}-meta"
    assert loaded["train"].features["weights"] == datasets.List(datasets.Value("float32"), length=2464)


def test_a_lone_config_is_the_default_and_several_have_none(repo, tmp_path):
    assert load_dataset(str(repo)).num_rows == load_dataset(str(repo), NAME).num_rows
    build_repository(tmp_path / "run", repo, "other")
    assert not any(config.get("default") for config in configs_of(read_card(repo)).values())
    with pytest.raises(ValueError, match="Config name is missing"):
        load_dataset(str(repo))


def test_the_text_tells_recipe_limits_splits_and_what_was_left_out(repo):
    line = f"| [{NAME}](_meta/{NAME}/README.md) | 36 | 12 | 0–2 | `cnn_s` | digits | [CC-BY 4.0]("
    card = (repo / "README.md").read_text()
    assert line in card
    assert f'load_dataset("path/or/name/of/this/repository", "{NAME}")' in card
    assert "@inproceedings{schurholt2022model," in card
    text = (repo / "_meta" / NAME / "README.md").read_text()
    assert "`cnn_s` (1 input channel, 10 classes, 2,464 parameters) on digits." in text
    assert "| lr | 0.001 |" in text
    assert "Only the first 500 train images were used." in text
    assert "12 models, 36 rows, epochs 0–2" in text
    assert "Nothing was left out." in text
    assert "| train | 9 | 27 | 1 of" in text
    assert "1 point × 1,000 seeds" in text
    assert "@inproceedings{schurholt2022model," in text


def test_what_a_person_wrote_is_kept(repo, tmp_path):
    file = repo / "README.md"
    text = file.read_text()
    start = text.index(YOURS[0])
    end = text.index(YOURS[1])
    text = f"{text[:start]}{YOURS[0]}\nOur zoo, *trained with care*.\n\nTwo paragraphs: ünïcode.\n{text[end:]}"
    text = text.replace("license: cc-by-4.0", "license: mit\nlanguage: en")
    text = text.replace("pretty_name: Model zoos", "pretty_name: Ours")
    text = text.replace("- model-zoo\n", "- model-zoo\n- mine\n")
    file.write_text(text)
    build_repository(tmp_path / "run", repo, "other")
    build_repository(tmp_path / "run", repo, "third")
    after = file.read_text()
    assert "\nOur zoo, *trained with care*.\n\nTwo paragraphs: ünïcode.\n" in after
    assert after.count(YOURS[0]) == after.count("## Citation") == 1
    data = DatasetCard.load(file).data
    assert (data.license, data.language, data.pretty_name) == ("mit", "en", "Ours")
    assert "mine" in data.tags
    assert zoos_of(configs_of(read_card(repo))) == [NAME, "other", "third"]
    assert after.index(f"| [{NAME}]") < after.index("| [other]") < after.index("| [third]")


def test_a_card_that_is_not_ours_keeps_its_text_and_configs(tmp_path):
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "mine.csv").write_text("a,b\n1,2\n")
    (repo / "README.md").write_text(
        "---\nconfigs:\n- config_name: mine\n  data_files: mine.csv\n  default: true\n---\n# My data\n\nHandwritten.\n"
    )
    make_run(tmp_path / "run", ((4, 0),))
    build_repository(tmp_path / "run", repo)
    text = (repo / "README.md").read_text()
    assert "# My data\n\nHandwritten." in text[text.index(YOURS[0]) : text.index(YOURS[1])]
    assert configs_of(read_card(repo))["mine"]["data_files"] == "mine.csv"


def test_a_readme_without_yaml_is_kept_as_text(tmp_path):
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "README.md").write_text("# Only text\n")
    make_run(tmp_path / "run", ((4, 0),))
    build_repository(tmp_path / "run", repo)
    assert "# Only text" in (repo / "README.md").read_text()
    assert set(configs_of(read_card(repo))) == {NAME, f"{NAME}-meta"}


def test_a_broken_card_stops_the_build_and_stays(repo, tmp_path):
    file = repo / "README.md"
    file.write_text("---\nconfigs: [unclosed\n---\ntext")
    with pytest.raises(RepositoryError, match=r"README.md: its YAML block could not be read"):
        build_repository(tmp_path / "run", repo)
    assert file.read_text().startswith("---\nconfigs: [unclosed")
    file.write_text("---\nconfigs: [1, 2]\n---\ntext")
    with pytest.raises(RepositoryError, match="configs: expected a list of mappings"):
        build_repository(tmp_path / "run", repo)


def test_rebuilding_writes_the_same_card(repo, tmp_path):
    before = (repo / "README.md").read_bytes()
    build_repository(tmp_path / "run", repo)
    assert (repo / "README.md").read_bytes() == before


def test_left_out_states_stand_in_a_table(tmp_path):
    bad = members_of(get_zoo(NAME), None, 4)[1].model_id
    make_run(tmp_path / "run", ((4, 2),), nan=[bad])
    build_repository(tmp_path / "run", tmp_path / "repo")
    page = (tmp_path / "repo" / "_meta" / NAME / "README.md").read_text()
    assert "| weights are not finite (the model diverged) | 1 | 3 |" in page


def test_imported_twins_are_attributed(tmp_path):
    parents = make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0,))
    make_twins(tmp_path / TWIN_ZOO, parents)
    build_repository(tmp_path / TWIN_ZOO, tmp_path / "repo")
    text = "".join(file.read_text() for file in sorted((tmp_path / "repo").rglob("README.md")))
    assert "Konstantin Schürholt" in text
    assert "[CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/)" in text


def test_names_of_light_configs_are_taken(repo, tmp_path):
    with pytest.raises(RepositoryError, match="names that end in -meta or -layouts are those of configs beside others"):
        build_repository(tmp_path / "run", repo, "mine-meta")
    with pytest.raises(RepositoryError, match=f"{NAME}-meta is a part of {NAME}; verify that one"):
        verify_repository(repo, f"{NAME}-meta")
