from pathlib import Path

import pytest

from lit_ad.data import Images
from lit_ad.errors import UserError


def test_every_image_below(tmp_path: Path, write) -> None:
    paths = [write("a/0.png"), write("b/0.png"), write("b/c/1.jpg")]
    samples = Images(tmp_path).samples()
    assert [s.image for s in samples] == paths
    assert {(s.label, s.split, s.mask) for s in samples} == {(-1, "predict", None)}
    assert [s.image for s in Images(paths[0]).samples()] == paths[:1]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        Images(tmp_path / "nowhere").samples()
    with pytest.raises(UserError, match=r"no image in "):
        Images(tmp_path).samples()
