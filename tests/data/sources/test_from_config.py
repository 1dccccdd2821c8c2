"""These tests make sources from a configuration."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.data import MVTec
from lit_ad.data.sources.from_config import make_source
from lit_ad.errors import UserError


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("MVTec", "lit_ad.MVTec"), ("lit_ad.MVTec", "lit_ad.MVTec"), ("lit_ad.data.MVTec", "lit_ad.data.MVTec")],
)
def test_a_configuration_makes_a_source_and_is_completed_with_its_defaults(
    name: str, recorded: str, images: Path
) -> None:
    source, config = make_source({"class_path": name, "init_args": {"root": str(images)}})
    assert isinstance(source, MVTec) and source.samples() == MVTec(images).samples()
    assert config == {"class_path": recorded, "init_args": {"root": str(images), "category": None}}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"class_path": "MVTek"}, "MVTek"),
        ({"class_path": "MVTec", "init_args": {"rot": "x"}}, "'rot' is not accepted"),
        ({"class_path": "MVTec"}, "required: root"),
        (3, "Got value: 3"),
        (None, "."),
    ],
)
def test_a_configuration_that_describes_no_source_is_an_error_of_one_line(config: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"^sources.good describes no source of images: .*{reason}") as error:
        make_source(config, "sources.good")
    assert "\n" not in str(error.value)


def test_an_error_that_a_source_raises_is_passed_on(tmp_path: Path) -> None:
    config = {"class_path": "OneClass", "init_args": {"root": str(tmp_path), "normal": ["a"], "anomalous": ["b"]}}
    with pytest.raises(UserError, match="give either `normal` or `anomalous`"):
        make_source(config)
