"""The page about a zoo's file: its examples are zoos, and it names all that there is."""

import re
from pathlib import Path

import pytest

from zoo_datasets.specs.axes import FURTHER_AXES, GRID_FIELDS
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.names import names_of
from zoo_datasets.specs.zoos import read_zoo

PAGE = (Path(__file__).parent.parent / "docs" / "zoo_files.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_each_example_is_a_zoo(tmp_path, text):
    (tmp_path / "zoo.yaml").write_text(text, encoding="utf-8")
    zoo = read_zoo(tmp_path / "zoo.yaml")
    members = members_of(zoo, models=8)
    assert len({member.model_id for member in members}) == 8


def test_the_page_names_every_axis_and_every_name_of_the_tables():
    for axis in {*GRID_FIELDS, *FURTHER_AXES} - {"variant"}:
        assert f"`{axis}`" in PAGE
    for table in ("activation", "init", "optimizer", "scheduler"):
        for name in names_of(table):
            assert re.search(rf"\b{name}\b", PAGE), name
