"""The texts of the Dockerfiles in docker/ are checked here; `make images` builds and tests the images."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_no_fault(file: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_does_not_run_as_root(file: Path) -> None:
    last_stage = re.split(r"^FROM ", file.read_text(), flags=re.M)[-1]
    (user,) = re.findall(r"^USER (\d+):\d+$", last_stage, re.M)
    assert int(user) >= 1000
    assert re.search(r'^ENTRYPOINT \["lit-ad"', last_stage, re.M)  # no shell, which would keep signals to itself
    assert ("HEALTHCHECK" in last_stage) == (file.stem == "serve")


def test_the_service_has_the_bounds_of_the_project_and_no_torch() -> None:
    lines = (ROOT / "docker/serve.txt").read_text().splitlines()
    wanted = {re.sub(r"\[.*?\]", "", line) for line in PROJECT["project"]["dependencies"]}
    wanted |= set(PROJECT["project"]["optional-dependencies"]["serve"])
    given = {line for line in lines if not line.startswith("#")}
    assert given <= wanted
    assert set(PROJECT["project"]["optional-dependencies"]["serve"]) <= given
    assert not [line for line in given if "torch" in line or "lightning" in line]


def test_dockerignore_lets_the_package_files_pass() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    built = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    readme = {
        part["path"] for part in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"][:1]
    }
    assert {*built["packages"], *built["force-include"], *readme, "LICENSE", "pyproject.toml"} <= kept
    assert "*" in lines
    assert all((ROOT / name).exists() for name in kept)
