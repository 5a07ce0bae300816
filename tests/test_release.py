"""Version, citation, changelog, workflows and the site's pages agree with the package."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_everything_public_is_in_the_reference():
    import zoo_datasets

    text = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    documented = set(re.findall(r"^::: zoo_datasets\.(\w+)$", text, re.MULTILINE))
    assert documented >= set(zoo_datasets.__all__) - {"__version__"}


def test_the_check_of_the_site_sees_requests(tmp_path):
    page = '<link rel="canonical" href="https://a.org"><a href="https://b.org">link</a><img src="x.png">'
    (tmp_path / "a.html").write_text(page)
    command = [sys.executable, str(ROOT / "tests/check_site.py"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    for leak in ('<script src="https://unpkg.com/x"></script>', '<link rel="stylesheet" href="//fonts.org/x">',
                 '<pre class="mermaid"></pre>'):  # fmt: skip
        (tmp_path / "b.html").write_text(leak)
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1, leak
