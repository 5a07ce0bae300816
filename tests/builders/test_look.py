"""What lies in folders, as kinds of source look for their files."""

import os

import pytest

from zoo_datasets.builders.containers import look
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.errors import SourceError


@pytest.fixture
def folder(tmp_path):
    for path in ("a/b/c/one.pt", "a/two.pt", "three.pt", "outside/four.pt"):
        file = tmp_path / "zoo" / path if "outside" not in path else tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "zoo" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "zoo" / "round").symlink_to(tmp_path / "zoo")
    (tmp_path / "zoo" / "file.pt").symlink_to(tmp_path / "outside" / "four.pt")
    (tmp_path / "zoo" / "broken").symlink_to("nowhere")
    return tmp_path / "zoo"


def test_files_below_are_neither_links_nor_behind_links(folder):
    assert sorted(look.files_below(folder)) == ["a/b/c/one.pt", "a/two.pt", "three.pt"]


def test_folders_near_end_at_a_level_and_look_into_some_of_each(folder):
    names = [path.relative_to(folder).as_posix() for path in look.folders_near(folder, 2)]
    assert set(names[:3]) == {"a", "linked", "round"}
    assert {"a/b", "round/a"} < set(names)
    assert "a/b/c" not in names
    assert len(list(look.folders_near(folder, 9, most=1))) < 100  # though `round` leads into itself


def test_a_folder_is_listed_once_for_all_kinds_of_source(folder, monkeypatch):
    listed = []
    scandir = os.scandir

    def counted(path):
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(look.os, "scandir", counted)
    with look.listed_once():
        first = look.inside(folder)
        (folder / "late.pt").write_bytes(b"")
        assert look.inside(folder) is first
    assert listed == [str(folder)]
    assert "late.pt" in look.inside(folder).files


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that may not be read")
def test_a_folder_that_may_not_be_listed_is_told(folder):
    folder.chmod(0)
    try:
        assert list(look.files_below(folder)) == []
        with pytest.raises(SourceError, match="Permission denied"):
            open_source(folder)
    finally:
        folder.chmod(0o755)
