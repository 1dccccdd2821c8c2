"""`lit_ad` offers its public names in one import, and imports nothing that is not used."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import docstring_parser
import pytest

import lit_ad

ROOMS = ("data", "evaluation", "methods", "metrics", "training")


@pytest.mark.parametrize("name", lit_ad.__all__)
def test_each_public_name_exists(name: str) -> None:
    value = getattr(lit_ad, name)
    assert name == "__version__" or value.__name__ == name
    assert name in dir(lit_ad)


@pytest.mark.parametrize("room", ROOMS)
def test_all_public_names_of_a_package_are_offered(room: str) -> None:
    module = import_module(f"lit_ad.{room}")
    assert all(getattr(lit_ad, name) is getattr(module, name) for name in module.__all__)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module lit_ad has no attribute Detektor"):
        _ = lit_ad.Detektor
    with pytest.raises(ImportError):
        exec("from lit_ad import Detektor")


@pytest.mark.parametrize("name", ["Detector", "View", "fit", "UserError", "Run"])
def test_light_names_do_not_import_torch(name: str) -> None:
    code = (
        f"import sys; from lit_ad import {name}; print([m for m in ('torch', 'lightning', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name in lit_ad.__all__ if "Args:" in (getattr(lit_ad, name).__doc__ or "")])
def test_each_argument_is_described_by_its_name(name: str) -> None:
    """The help of a command shows the description of an argument, which it finds by its name."""
    public = getattr(lit_ad, name)
    described = [entry.arg_name for entry in docstring_parser.parse(public.__doc__ or "").params]
    known = [*inspect.signature(public).parameters, *getattr(public, "__annotations__", {})]
    assert not set(described) - set(known) - {"**arguments", "**kwargs"}


def test_the_site_describes_each_name() -> None:
    page = (Path(__file__).parents[1] / "docs/api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: lit_ad\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(set(lit_ad.__all__) - {"__version__"})
