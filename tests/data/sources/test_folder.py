from collections import Counter
from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.data import Folder
from lit_ad.data.sources.folder import name_defects
from lit_ad.errors import UserError
from tests.data.conftest import Write


def count(samples: list[Sample]) -> dict[tuple[str, str], int]:
    return dict(Counter((s.split, s.defect) for s in samples))


def test_a_folder_of_nominal_images_alone_has_training_images_only(tmp_path: Path, write: Write) -> None:
    for i in range(5):
        write(f"ok/{i}.png")
    assert count(Folder("ok", root=tmp_path).samples()) == {("train", "good"): 5}
    assert count(Folder(str(tmp_path / "ok")).samples()) == {("train", "good"): 5}


def test_a_fifth_of_the_nominal_images_is_kept_for_the_test(tmp_path: Path, write: Write) -> None:
    for i in range(10):
        write(f"ok/{i}.png")
    write("scratched/0.png")
    samples = Folder("ok", "scratched", root=tmp_path).samples()
    assert count(samples) == {("train", "good"): 8, ("test", "good"): 2, ("test", "scratched"): 1}
    assert len({s.image for s in samples}) == 11
    assert samples == Folder("ok", "scratched", root=tmp_path).samples()
    assert samples != Folder("ok", "scratched", root=tmp_path, seed=1).samples()


def test_nominal_test_images_can_come_from_their_own_folder(tmp_path: Path, write: Write) -> None:
    for i in range(3):
        write(f"ok/{i}.png")
        write(f"ok_test/{i}.png")
    write("bad/0.png")
    samples = Folder("ok", "bad", nominal_test="ok_test", root=tmp_path).samples()
    assert count(samples) == {("train", "good"): 3, ("test", "good"): 3, ("test", "bad"): 1}
    assert [s.mask for s in samples if s.label] == [None]


def test_each_folder_of_anomalous_images_can_have_its_own_folder_of_masks(
    tmp_path: Path, write: Write, write_mask: Write
) -> None:
    for name in ("ok/0.png", "ok/1.png", "dent/0.png", "hole/0.png", "hole/1.png"):
        write(name)
    masks = [write_mask("truth_dent/0_mask.png"), write_mask("truth_hole/1.png")]
    samples = Folder("ok", ["dent", "hole"], ["truth_dent", "truth_hole"], root=tmp_path).samples()
    assert [(s.defect, s.mask) for s in samples if s.label] == [("dent", masks[0]), ("hole", None), ("hole", masks[1])]


@pytest.mark.parametrize("anomalous", ["bad", ["bad/dent", "bad/hole"]])
def test_one_folder_of_masks_can_serve_all_folders_of_anomalous_images(
    tmp_path: Path, write: Write, write_mask: Write, anomalous: str | list[str]
) -> None:
    for name in ("ok/0.png", "ok/1.png", "bad/dent/0.png", "bad/hole/0.png"):
        write(name)
    masks = [write_mask("truth/dent/0_mask.png"), write_mask("truth/hole/0.png")]
    samples = Folder("ok", anomalous, "truth", root=tmp_path).samples()
    assert [(s.defect, s.mask) for s in samples if s.label] == [("dent", masks[0]), ("hole", masks[1])]


def test_one_flat_folder_of_masks_can_serve_two_folders_of_images(
    tmp_path: Path, write: Write, write_mask: Write
) -> None:
    for name in ("ok/0.png", "ok/1.png", "dent/5.png", "hole/6.png"):
        write(name)
    masks = [write_mask("truth/5.png"), write_mask("truth/6.png")]
    samples = Folder("ok", ["dent", "hole"], "truth", root=tmp_path).samples()
    assert [s.mask for s in samples if s.label] == masks
    write("hole/5.png")
    with pytest.raises(UserError, match="two files with one name"):
        Folder("ok", ["dent", "hole"], "truth", root=tmp_path).samples()


def test_wrong_folders_and_masks_without_images_are_refused(tmp_path: Path, write: Write, write_mask: Write) -> None:
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
    with pytest.raises(
        UserError, match="there are 2 folders of masks for 1 folders of anomalous images: give one for each"
    ):
        Folder("ok", "bad", ["truth", "truth2"], root=tmp_path)
    with pytest.raises(UserError, match="test_fraction is 1"):
        Folder("ok", "bad", test_fraction=1)


@pytest.fixture
def two_defects(tmp_path: Path, write: Write, write_mask: Write) -> Path:
    """Write ten nominal images, and images and masks of the defects dent and scratch; the files of both defects have
    the same names."""
    for i in range(10):
        write(f"ok/{i}.png")
    for defect in ("dent", "scratch"):
        for i in range(2):
            write(f"test/{defect}/images/{i}.png")
            write_mask(f"test/{defect}/masks/{i}.png")
    return tmp_path


IMAGES = ["test/dent/images", "test/scratch/images"]
MASKS = ["test/dent/masks", "test/scratch/masks"]


@pytest.mark.parametrize(
    ("anomalous", "masks"),
    [
        (IMAGES, MASKS),
        (["test/dent", "test/scratch"], MASKS),
        (["test/dent", "test/scratch/images"], MASKS),
        (IMAGES, None),
        (["test/dent", "test/scratch"], None),
        ("test", None),
    ],
)
def test_every_way_to_name_the_folders_lists_the_same_images_and_masks(
    two_defects: Path, anomalous: str | list[str], masks: list[str] | None
) -> None:
    source = Folder("ok", anomalous, masks, root=two_defects)
    listed = [(s.defect, s.image, s.mask) for s in source.samples() if s.label]
    assert listed == [
        (defect, folder / f"images/{i}.png", folder / f"masks/{i}.png" if masks else None)
        for defect, folder in ((defect, two_defects / "test" / defect) for defect in ("dent", "scratch"))
        for i in range(2)
    ]
    left_out = ", ".join(str(two_defects / name) for name in MASKS)
    assert source.remarks() == (
        []
        if masks or anomalous == IMAGES
        else [f"folders of masks, which are left out of the anomalous images; give them as `masks`, 2: {left_out}"]
    )


@pytest.mark.parametrize(
    ("anomalous", "message"),
    [
        ([*IMAGES, MASKS[0]], r"test/dent/masks holds masks: take it out of `anomalous`, and give it as `masks`"),
        (MASKS, r"test/dent/masks holds masks"),
        (["test/only"], r"test/only holds masks"),
        (["test/unclear"], r"no image in .*unclear/a \(2 lie in folders inside it\)"),
        (["test/dent", "test/good"], r"test/good is in `anomalous`, but called good"),
    ],
)
def test_an_anomalous_folder_of_masks_or_without_images_or_called_good_is_refused(
    two_defects: Path, write: Write, write_mask: Write, anomalous: list[str], message: str
) -> None:
    write_mask("test/only/masks/0.png")
    write("test/good/0.png")
    for camera in ("left", "right"):
        write(f"test/unclear/a/{camera}/0.png")
    with pytest.raises(UserError, match=message):
        Folder("ok", anomalous, root=two_defects).samples()
    with pytest.raises(UserError, match=r"images/0.png is an image, and cannot be its own mask"):
        Folder("ok", "test/dent", "test/dent", root=two_defects).samples()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["bad"], ["bad"]),
        (["bad/dent/images"], ["dent"]),
        (["images"], ["images"]),
        (["."], ["data"]),
        (["bad/dent", "bad/hole"], ["dent", "hole"]),
        (["dent/images", "hole/Images"], ["dent", "hole"]),
        (["dent/images", "hole"], ["dent", "hole"]),
        (["dent/2024/raw", "hole/2024/raw"], ["dent", "hole"]),
        (["line1/dent", "line2/dent"], ["line1", "line2"]),
        (["dent/cam1", "dent/cam2", "hole/cam1"], ["dent-cam1", "cam2", "hole-cam1"]),
        (["dent", "old/dent", "hole"], ["dent", "old-dent", "hole"]),
        (["dent/images", "dent/photos"], ["dent", "dent"]),
        (["/other/dent/images", "/data/bad/hole"], ["dent", "hole"]),
    ],
)
def test_a_defect_has_the_name_of_the_folder_in_which_its_path_differs(folders: list[str], names: list[str]) -> None:
    root = Path("/data")
    assert list(name_defects([root / folder for folder in folders], root).values()) == names


def test_one_folder_of_masks_can_hold_a_folder_for_each_defect(two_defects: Path) -> None:
    for defect in ("dent", "scratch"):
        (two_defects / "truth").mkdir(exist_ok=True)
        (two_defects / "test" / defect / "masks").rename(two_defects / "truth" / defect)
    samples = [s for s in Folder("ok", IMAGES, "truth", root=two_defects).samples() if s.label]
    assert [s.mask for s in samples] == [two_defects / "truth" / s.defect / s.image.name for s in samples]


def test_masks_among_images_are_not_listed_as_images(two_defects: Path, write: Write, write_mask: Write) -> None:
    write("bad/0.png")
    write("bad/1.png")
    masks = [write_mask("bad/0_mask.png"), write_mask("ok/3_mask.png")]
    source = Folder("ok", "bad", root=two_defects)
    samples = source.samples()
    assert count(samples) == {("train", "good"): 8, ("test", "good"): 2, ("test", "bad"): 2}
    assert [s.mask for s in samples if s.label] == [masks[0], None]
    assert source.remarks() == [f"masks among images, by their names, which are no images, 2: {masks[1]}, {masks[0]}"]
    write_mask("truth/1.png")
    samples = Folder("ok", "bad", "truth", root=two_defects).samples()
    assert [s.mask for s in samples if s.label] == [None, two_defects / "truth/1.png"]


def test_folders_inside_folders_of_images_are_reported(two_defects: Path, write: Write) -> None:
    inside = [write("ok/more/0.png").parent, write("bad/0.png").parent / "masks"]
    inside[1].mkdir()
    told = f"folders inside folders of images, which are not read, 2: {inside[0]}, {inside[1]}"
    assert Folder("ok", "bad", root=two_defects).remarks() == [told]
    write("ok/.more/0.png")
    assert Folder(["ok", "ok/more"], "bad", "bad/masks", root=two_defects).remarks() == []


def test_images_of_few_colours_are_not_taken_for_masks(tmp_path: Path, write: Write, write_mask: Write) -> None:
    """Drawings have few colours: the nominal images have one colour, the anomalous image has a square."""
    for i in range(5):
        write(f"ok/{i}.png", value=0)
    image = write_mask("bad/square/0.png")
    samples = Folder("ok", ["bad/square"], root=tmp_path).samples()
    assert [(s.image, s.defect) for s in samples if s.label] == [(image, "square")]
