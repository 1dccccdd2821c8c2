"""The package, its metadata and its files have the same version."""

import re
from importlib.metadata import version

import lit_ad
from lit_ad.version import __version__


def test_the_package_and_its_metadata_have_one_version() -> None:
    assert lit_ad.__version__ == __version__ == version("lit-ad")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
