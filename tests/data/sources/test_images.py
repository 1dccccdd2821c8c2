from pathlib import Path

import pytest

from lit_ad.data import Images
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError
from lit_ad.image.view import View


def test_every_image_below(tmp_path: Path, write) -> None:
    paths = [write("a/0.png"), write("b/0.png"), write("b/c/1.jpg")]
    samples = Images(tmp_path).samples()
    assert [s.image for s in samples] == paths
    assert {(s.label, s.split, s.mask) for s in samples} == {(-1, "predict", None)}
    assert [(s.category, s.defect) for s in samples] == [("a", ""), ("b", ""), ("b", "c")]
    assert [(s.image, s.category) for s in Images(paths[0]).samples()] == [(paths[0], "")]


def test_a_broken_link_is_listed(tmp_path: Path, write) -> None:
    """So that predict tells of it; other links lead to what they are."""
    image, folder = write("a/0.png"), tmp_path / "links"
    (folder / "inner").mkdir(parents=True)
    gone = tmp_path / "gone.png"
    links = {"good.png": image, "inner/gone.png": gone, "gone.txt": gone, "folder.png": image.parent}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    samples = Images(folder).samples()
    assert [s.image for s in samples] == [folder / "good.png", folder / "inner/gone.png"]
    item = AnomalyDataset(samples, View(16))[1]
    assert item.samples[0].error.startswith(f"cannot read {folder}/inner/gone.png: ")
    assert AnomalyDataset(samples, View(16))[0].samples[0].error == ""


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        Images(tmp_path / "nowhere").samples()
    with pytest.raises(UserError, match=r"no image in "):
        Images(tmp_path).samples()
