"""Version, citation, changelog, workflows and the site's pages agree with the package."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

import zoo_datasets
from zoo_datasets.specs.zoos import read_zoo_file
from zoo_datasets.version import __version__

ROOT = Path(__file__).parents[1]


def pages_in(entry):
    """The files that a navigation names."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_in(part)]


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "zoo_datasets.version.__version__"}
    assert importlib.metadata.version("zoo-datasets") == __version__


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (str(citation["version"]), citation["license"]) == (__version__, "Apache-2.0")
    assert citation["references"][0]["authors"][0]["family-names"] == "Schürholt"
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_try_all_pythons_that_the_package_says_it_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    pythons = workflow["jobs"]["try"]["strategy"]["matrix"]["python"]
    assert pythons[0] == project["requires-python"].removeprefix(">=")
    tried = subprocess.run(
        [sys.executable, ROOT / "tests/try_wheel.py", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(python in tried.stdout for python in pythons)
    assert workflow["jobs"]["publish"]["needs"] == ["build", "try"]


@pytest.mark.parametrize("form", sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_forms_are_what_github_takes(form):
    content = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / form).read_text())
    if form == "config.yml":
        assert set(content) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= content.keys()
    kinds = {"textarea", "input", "dropdown", "checkboxes", "markdown"}
    assert all(part["type"] in kinds and part["attributes"] for part in content["body"])


def test_the_navigation_names_pages_that_exist():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))
    assert set(pages_in(site["nav"])) <= set(pages)
    assert site["strict"] is True
    assert site["theme"]["font"] is False


def test_the_readme_is_of_one_screen_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 80
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_the_zoo_of_the_picture_can_be_trained():
    assert read_zoo_file(ROOT / "examples/digits_grid.yaml").zoo.models == 960


def test_pages_and_names_that_no_list_has_are_in_the_site():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/site/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    nav = [{"What is there": ["published.md"]}, {"About": ["glossary.md"]}]
    config = types.SimpleNamespace(nav=nav, docs_dir=str(ROOT / "docs"))
    hooks.on_config(config)
    pages = sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))
    assert sorted(pages_in(nav)) == pages
    text = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    text += hooks.on_page_markdown((ROOT / "docs/api/further.md").read_text(), config=config)
    assert set(re.findall(r"^::: zoo_datasets\.(\w+)$", text, re.MULTILINE)) >= {*zoo_datasets.__all__} - {
        "__version__"
    }


def test_the_check_of_the_site_sees_requests(tmp_path):
    page = '<link rel="canonical" href="https://a.org"><a href="https://b.org">link</a><img src="x.png">'
    (tmp_path / "a.html").write_text(page)
    command = [sys.executable, str(ROOT / "tests/check_site.py"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    for leak in ('<script src="https://unpkg.com/x"></script>', '<link rel="stylesheet" href="//fonts.org/x">',
                 '<pre class="mermaid"></pre>'):  # fmt: skip
        (tmp_path / "b.html").write_text(leak)
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1, leak
