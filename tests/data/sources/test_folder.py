from collections import Counter
from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.data import Folder
from lit_ad.errors import UserError


def count(samples: list[Sample]) -> dict[tuple[str, str], int]:
    return dict(Counter((s.split, s.defect) for s in samples))


def test_nominal_images_alone(tmp_path: Path, write) -> None:
    for i in range(5):
        write(f"ok/{i}.png")
    assert count(Folder("ok", root=tmp_path).samples()) == {("train", "good"): 5}
    assert count(Folder(str(tmp_path / "ok")).samples()) == {("train", "good"): 5}


def test_a_fifth_of_the_nominal_images_is_kept_for_the_test(tmp_path: Path, write) -> None:
    for i in range(10):
        write(f"ok/{i}.png")
    write("scratched/0.png")
    samples = Folder("ok", "scratched", root=tmp_path).samples()
    assert count(samples) == {("train", "good"): 8, ("test", "good"): 2, ("test", "scratched"): 1}
    assert len({s.image for s in samples}) == 11
    assert samples == Folder("ok", "scratched", root=tmp_path).samples()
    assert samples != Folder("ok", "scratched", root=tmp_path, seed=1).samples()


def test_nominal_test_images_of_ones_own(tmp_path: Path, write) -> None:
    for i in range(3):
        write(f"ok/{i}.png")
        write(f"ok_test/{i}.png")
    write("bad/0.png")
    samples = Folder("ok", "bad", nominal_test="ok_test", root=tmp_path).samples()
    assert count(samples) == {("train", "good"): 3, ("test", "good"): 3, ("test", "bad"): 1}
    assert [s.mask for s in samples if s.label] == [None]


def test_masks_one_folder_for_each(tmp_path: Path, write, write_mask) -> None:
    for name in ("ok/0.png", "ok/1.png", "dent/0.png", "hole/0.png", "hole/1.png"):
        write(name)
    masks = [write_mask("truth_dent/0_mask.png"), write_mask("truth_hole/1.png")]
    samples = Folder("ok", ["dent", "hole"], ["truth_dent", "truth_hole"], root=tmp_path).samples()
    assert [(s.defect, s.mask) for s in samples if s.label] == [("dent", masks[0]), ("hole", None), ("hole", masks[1])]


@pytest.mark.parametrize("anomalous", ["bad", ["bad/dent", "bad/hole"]])
def test_masks_one_folder_for_all(tmp_path: Path, write, write_mask, anomalous: str | list[str]) -> None:
    for name in ("ok/0.png", "ok/1.png", "bad/dent/0.png", "bad/hole/0.png"):
        write(name)
    masks = [write_mask("truth/dent/0_mask.png"), write_mask("truth/hole/0.png")]
    samples = Folder("ok", anomalous, "truth", root=tmp_path).samples()
    assert [(s.defect, s.mask) for s in samples if s.label] == [("dent", masks[0]), ("hole", masks[1])]


def test_one_flat_folder_of_masks_for_two_of_images(tmp_path: Path, write, write_mask) -> None:
    for name in ("ok/0.png", "ok/1.png", "dent/5.png", "hole/6.png"):
        write(name)
    masks = [write_mask("truth/5.png"), write_mask("truth/6.png")]
    samples = Folder("ok", ["dent", "hole"], "truth", root=tmp_path).samples()
    assert [s.mask for s in samples if s.label] == masks
    write("hole/5.png")
    with pytest.raises(UserError, match="two files with one name"):
        Folder("ok", ["dent", "hole"], "truth", root=tmp_path).samples()


def test_errors(tmp_path: Path, write, write_mask) -> None:
    write("ok/0.png")
    write("bad/0.png")
    write_mask("truth/9.png")
    write_mask("deep/other/0.png")
    with pytest.raises(UserError, match=r"mask without an image: .*truth/9.png"):
        Folder("ok", "bad", "truth", root=tmp_path).samples()
    with pytest.raises(UserError, match=r"mask without an image: .*deep/other/0.png"):
        Folder("ok", "bad", "deep", root=tmp_path).samples()
    with pytest.raises(UserError, match=r"missing is not a folder"):
        Folder("ok", "bad", "missing", root=tmp_path).samples()
    with pytest.raises(UserError, match="2 folders of masks for 1"):
        Folder("ok", "bad", ["truth", "truth2"], root=tmp_path)
    with pytest.raises(UserError, match="test_fraction is 1"):
        Folder("ok", "bad", test_fraction=1)
