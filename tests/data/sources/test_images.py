from pathlib import Path

import pytest

from lit_ad.data import Images
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.sources.images import list_and_tell
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write


def test_every_image_below_the_folder_is_listed(tmp_path: Path, write: Write) -> None:
    paths = [write("a/0.png"), write("b/0.png"), write("b/c/1.jpg")]
    samples = Images(tmp_path).samples()
    assert [s.image for s in samples] == paths
    assert {(s.label, s.split, s.mask) for s in samples} == {(-1, "predict", None)}
    assert [(s.category, s.defect) for s in samples] == [("a", ""), ("b", ""), ("b", "c")]
    assert [(s.image, s.category) for s in Images(paths[0]).samples()] == [(paths[0], "")]


def test_a_broken_link_is_listed(tmp_path: Path, write: Write) -> None:
    """The prediction then reports the broken link. Other links are listed as the files that they point to."""
    image, folder = write("a/0.png"), tmp_path / "links"
    (folder / "inner").mkdir(parents=True)
    gone = tmp_path / "gone.png"
    links = {"good.png": image, "inner/gone.png": gone, "gone.txt": gone, "folder.png": image.parent}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    samples = Images(folder).samples()
    assert [s.image for s in samples] == [folder / name for name in ("folder.png/0.png", "good.png", "inner/gone.png")]
    errors = [AnomalyDataset(samples, View(16))[i].samples[0].error for i in range(3)]
    assert errors[:2] == ["", ""] and errors[2].startswith(f"cannot read {folder}/inner/gone.png: ")


def test_linked_folders_are_listed_and_hidden_folders_are_reported(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [write("new/line1/0.png"), write("elsewhere/1.png")]
    hidden = write("new/line1/.ipynb_checkpoints/0-checkpoint.png")
    (tmp_path / "new/line2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "new/notes.txt").touch()
    (tmp_path / "new/loop").symlink_to(".")
    samples = list_and_tell(tmp_path / "new")
    assert [(s.image, s.category) for s in samples] == [
        (images[0], "line1"),
        (tmp_path / "new/line2/1.png", "line2"),
    ]
    remarks = capsys.readouterr().out.splitlines()
    assert remarks == [f"In {tmp_path / 'new'}: {remark}" for remark in Images(tmp_path / "new").remarks()]
    for name in (hidden.parent, tmp_path / "new/notes.txt", tmp_path / "new/loop"):
        assert sum(str(name) in remark for remark in remarks) == 1
    assert [s.image for s in list_and_tell(hidden)] == [hidden]  # a hidden image is listed if the user names it
    assert capsys.readouterr().out == ""


def test_a_missing_path_and_a_folder_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        Images(tmp_path / "nowhere").samples()
    with pytest.raises(UserError, match=r"no image in "):
        Images(tmp_path).samples()
