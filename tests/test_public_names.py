"""What `lit_ad` itself offers: each name in one import, and nothing imported that was not asked for."""

import subprocess
import sys
from importlib import import_module

import pytest

import lit_ad

ROOMS = ("data", "evaluation", "methods", "metrics", "training")


@pytest.mark.parametrize("name", lit_ad.__all__)
def test_each_name_is_there(name: str) -> None:
    value = getattr(lit_ad, name)
    assert name == "__version__" or value.__name__ == name
    assert name in dir(lit_ad)


@pytest.mark.parametrize("room", ROOMS)
def test_all_that_a_room_offers_is_offered(room: str) -> None:
    module = import_module(f"lit_ad.{room}")
    assert all(getattr(lit_ad, name) is getattr(module, name) for name in module.__all__)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module lit_ad has no attribute Detektor"):
        _ = lit_ad.Detektor
    with pytest.raises(ImportError):
        exec("from lit_ad import Detektor")


@pytest.mark.parametrize("name", ["Detector", "View", "fit", "UserError", "Run"])
def test_light_names_bring_no_torch(name: str) -> None:
    code = (
        f"import sys; from lit_ad import {name}; print([m for m in ('torch', 'lightning', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
