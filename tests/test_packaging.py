"""The package has one version, links that work on its pages, and valid files for other tools. `make package` builds one
and tries it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import lit_ad

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RELATIVE = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "lit_ad/version.py"
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        assert lit_ad.__version__ not in re.findall(r"[\d.]+\d", (ROOT / name).read_text(encoding="utf-8")), name


def test_links_of_the_readme_work_on_pypi() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.sub(r"\W+", " ", re.sub(r"!\[.*?\)\n+\*.*?\*\n|\]\([^)]+\)", " ", text, flags=re.S))
    for change in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert not RELATIVE.findall(text)
    assert "](https://arxiv.org/abs/2103.04257)" in text
    assert "docs/data.md" in text and "heatmaps of the demo" not in text
    assert re.sub(r"\W+", " ", re.sub(r"\]\([^)]+\)", " ", text)) == words  # no other word is lost


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "UPGRADING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in RELATIVE.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / link.partition("#")[0]).exists(), link


def test_the_citation_has_the_fields_of_its_format() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert [author["name"] for author in citation["authors"]] == [who["name"] for who in PROJECT["project"]["authors"]]
    assert citation["license"] == PROJECT["project"]["license"]
