"""The inspection reports numbers and every known mistake of a data set. The tests use small files."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data import MVTec, OneClass
from lit_ad.data.audit import inspection
from lit_ad.data.audit.inspection import inspect_samples, print_summary, split_by_budget
from lit_ad.data.audit.measurements import Header, read_max_value
from lit_ad.data.audit.report import AuditReport
from lit_ad.data.splits import Split, Splits, list_splits, split_nominal
from lit_ad.image.view import View
from tests.data.conftest import Write


def report(samples: list[Sample], **options: Any) -> AuditReport:
    train, val = split_nominal([s for s in samples if s.split == "train"], 0.2, 0)
    splits = Splits(train, val, [s for s in samples if s.split == "test"])
    return inspect_samples(splits, threads=2, **options)


def test_a_sound_data_set_has_one_line_and_no_warning(bottle: Path) -> None:
    found = report(MVTec(bottle).samples())
    assert (found.warnings, found.errors) == ([], [])
    assert str(found) == "bottle: 8 to train on, 2 held out; test: 3 good, 2 broken (1 with masks); 20x24, 8-bit RGB"


def test_the_report_has_a_line_of_sizes_depths_and_masks_for_each_category(
    bottle: Path, write: Write, write_mask: Write
) -> None:
    for i in range(5):
        write(f"cable/train/good/{i}.png", (10 + i, 30))
        write_mask(f"cable/train/good/grey{i}.png", (40, 30))
    write("nut/train/good/0.png", (8, 9))
    write("nut/train/good/1.png", (8, 10))
    write_mask("bottle/ground_truth/broken/001_mask.png")
    lines = report(MVTec(bottle.parent).samples()).text.splitlines()
    assert lines == [
        "bottle: 8 to train on, 2 held out; test: 3 good, 2 broken, each with a mask; 20x24, 8-bit RGB",
        "cable: 8 to train on, 2 held out; test: none; 10x30 to 40x30 (6 sizes), 8-bit RGB (5), 8-bit grey (5)",
        "nut: 1 to train on, 1 held out; test: none; 8x9 (1), 8x10 (1), 8-bit RGB",
    ]


def test_the_report_says_that_a_one_class_source_has_no_masks(write: Write) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(2):
                path = write(f"pets/{split}/{name}/{i}.png")
    root = path.parents[2]
    assert "test: 2 good, 2 dog, no masks; 20x24" in report(OneClass(root, ["cat"]).samples()).text


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_an_unreadable_test_image_is_an_error(bottle: Path, write: Write, suffix: str, damage: str) -> None:
    bad = write(f"bottle/test/good/bad.{suffix}", (64, 64))
    content = {"cut": bad.read_bytes()[: bad.stat().st_size // 2], "empty": b"", "text": b"not an image"}[damage]
    bad.write_bytes(content)
    (error,) = report(MVTec(bottle).samples()).errors
    assert error.startswith(f"cannot read {bad}: ") and error.endswith("; replace or remove it")


def test_many_unreadable_files_are_reported_in_one_error(bottle: Path) -> None:
    for path in sorted((bottle / "test").rglob("*.png")):
        path.write_bytes(path.read_bytes()[:-100])
    (bottle / "train/good/003.png").write_bytes(b"")
    (error,) = report(MVTec(bottle).samples()).errors
    assert error.startswith(f"cannot read 6 files: {bottle / 'train/good/003.png'}, {bottle / 'test/broken/000.png'}, ")
    assert " and 3 more; replace or remove them (the first: it is no image in a known format)" in error


def test_a_damaged_image_is_an_error_also_where_its_path_contains_view(bottle: Path) -> None:
    """The type of the error says whether the view is the cause; the text "view." in the path does not."""
    moved = bottle.rename(bottle.with_name("review.old"))
    (moved / "test/good/000.png").write_bytes(b"")
    (error,) = report(MVTec(moved).samples()).errors
    assert error.startswith(f"cannot read {moved / 'test/good/000.png'}: ")


def test_a_damaged_mask_is_an_error(bottle: Path) -> None:
    mask = bottle / "ground_truth/broken/000_mask.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    (error,) = report(MVTec(bottle).samples()).errors
    assert error.startswith(f"cannot read {mask}: ")


def test_test_images_are_not_decoded_where_decode_is_false(bottle: Path) -> None:
    bad = bottle / "test/good/000.png"
    bad.write_bytes(bad.read_bytes()[:-100])
    assert report(MVTec(bottle).samples()).errors and not report(MVTec(bottle).samples(), decode=False).errors


def test_only_a_part_of_very_many_test_images_is_decoded(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inspection verifies the checksums of the other images; PNG files have checksums."""
    monkeypatch.setattr(inspection, "DECODED_PIXELS", 3 * 20 * 24)  # the budget is 3 of the 5 test images
    paths = [Path(name) for name in "abcde"]
    headers = dict.fromkeys(paths, Header((20, 24), "8-bit RGB"))
    assert split_by_budget(paths, headers) == ([Path("a"), Path("c"), Path("e")], [Path("b"), Path("d")])
    found = report(MVTec(bottle).samples())
    assert found.text.endswith("\n  3 of 5 test images decoded, the others verified") and not found.errors
    for path in (bottle / "test").rglob("*.png"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    assert "cannot read 5 files" in report(MVTec(bottle).samples()).errors[0]


@pytest.mark.parametrize("link", ["copy", "symlink", "hardlink"])
def test_the_same_file_in_training_and_test_is_a_warning(bottle: Path, link: str) -> None:
    here, there = bottle / "train/good/004.png", bottle / "test/good/again.png"
    if link == "copy":
        there.write_bytes(here.read_bytes())
    else:
        getattr(there, f"{link}_to")(here)
    assert report(MVTec(bottle).samples()).warnings == [
        f"the same file in training and test, once: {here} and {there}; metrics will be too good"
    ]


def test_the_same_file_as_good_and_anomalous_image_is_a_warning(bottle: Path) -> None:
    here, there = bottle / "test/good/001.png", bottle / "test/broken/001.png"
    there.write_bytes(here.read_bytes())
    assert report(MVTec(bottle).samples()).warnings == [
        f"the same file as a good and as an anomalous image of the test, once: {here} and {there}"
    ]


def test_copies_among_training_images_are_a_warning(bottle: Path) -> None:
    names = [f"{i:03}.png" for i in range(10)]
    for name in names[1:5]:
        (bottle / "train/good" / name).write_bytes((bottle / "train/good/000.png").read_bytes())
    (warning,) = report(MVTec(bottle).samples()).warnings
    assert warning.startswith("training images are copies of each other, once: ") and "threshold too low" in warning
    for name in names[1:]:
        (bottle / "train/good" / name).write_bytes((bottle / "train/good/000.png").read_bytes())
    assert report(MVTec(bottle).samples()).warnings == [
        "all 10 training images are equal: nothing can be learned of how good images differ"
    ]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("empty", "masks empty: they mark no defect in an anomalous image, once: "),
        ("full", "masks full: they mark the whole image, once: "),
        ("inverted", "masks perhaps inverted: they mark most of the image and its border, once: "),
        ("large", ""),
        ("low", ""),
        ("half", ""),
    ],
)
def test_empty_full_and_inverted_masks_are_a_warning(bottle: Path, what: str, said: str) -> None:
    mask = np.zeros((20, 24), np.uint8)
    if what != "empty":
        mask[:] = 255
    if what == "inverted":
        mask[5:10, 5:10] = 0
    if what == "large":  # a defect from edge to edge
        mask[:4], mask[-4:] = 0, 0
    if what == "low":  # a defect that touches most of the border but not the top row
        mask[:1] = 0
    if what == "half":
        mask[10:] = 0
    path = bottle / "ground_truth/broken/001_mask.png"
    Image.fromarray(mask).save(path)
    assert report(MVTec(bottle).samples()).warnings == ([f"{said}{path}"] if said else [])


def test_a_mask_pixel_counts_only_above_the_mask_value_of_its_sample(bottle: Path) -> None:
    mask = bottle / "ground_truth/broken/000_mask.png"
    Image.fromarray(np.full((20, 24), 100, np.uint8)).save(mask)
    samples = MVTec(bottle).samples()
    (said,) = report(samples).warnings
    assert said.startswith("masks full")
    (said,) = report([s._replace(mask_above=127) for s in samples]).warnings
    assert said.startswith("masks empty")


def test_a_mask_of_a_good_image_is_a_warning_if_it_marks_a_defect(bottle: Path, write_mask: Write) -> None:
    """Some data sets contain black masks of good images, which are correct. Other masks of good images would be ignored
    without a message."""
    folder = bottle / "ground_truth/good"
    folder.mkdir()
    assert not report(MVTec(bottle).samples()).warnings
    Image.new("L", (24, 20)).save(folder / "000_mask.png")
    assert not report(MVTec(bottle).samples()).warnings
    mask = write_mask("bottle/ground_truth/good/001_mask.png")
    assert report(MVTec(bottle).samples()).warnings == [
        f"masks for good images, with defects in them: they are ignored, once: {mask}"
    ]
    assert "3 good, 2 broken (1 with masks)" in report(MVTec(bottle).samples()).text


@pytest.mark.parametrize(("bits", "used"), [(8, 10), (10, 10), (12, 12), (14, 14), (16, None)])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_the_report_finds_the_camera_depth_of_16_bit_files(
    tmp_path: Path, bits: int, used: int | None, suffix: str
) -> None:
    generator = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / f"part/train/good/{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 2**bits, (20, 24)).astype(np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(path)
    found = report(MVTec(tmp_path / "part").samples())
    assert found.text.endswith("20x24, 16-bit grey")
    if used is None:
        assert found.warnings == []
    else:
        (warning,) = found.warnings
        assert warning.startswith(f"16-bit images that use {used} bits at most, such as {tmp_path}")
        assert warning.endswith(f"nearly black; set model.view.window to auto, or to [0, {2**used - 1}]")


def test_the_report_finds_the_camera_depth_of_16_bit_colour_files(bottle: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for i, path in enumerate(sorted((bottle / "train/good").glob("*.png"))):
        values = np.random.default_rng(i).integers(0, 4096, (20, 24, 3)).astype(np.uint16)
        cv2.imwrite(str(path), values)
    found = report(MVTec(bottle).samples())
    assert "16-bit RGB (10), 8-bit RGB (5)" in found.text
    assert found.warnings[0].startswith("16-bit images that use 12 bits at most")


def test_broken_links_and_unread_files_are_reported(bottle: Path) -> None:
    links = [bottle / "test/broken/007.png", bottle / "test/dent"]
    for link in links:
        link.symlink_to(bottle / "gone" / link.name)
    for name in ("train/good/a.raw", "train/good/Thumbs.db", "train/good/.hidden", ".notes"):
        (bottle / name).touch()
    Image.new("L", (8, 8)).save(bottle / "train/good/0.gif", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    for folder in (".ipynb_checkpoints", ".git"):
        (bottle / "test" / folder).mkdir()
    (bottle / "test/.ipynb_checkpoints/000-checkpoint.png").touch()
    found = report(MVTec(bottle).samples())
    assert found.warnings == [
        f"broken links, 2 times: {links[1]}, {links[0]}; they are left out",
        f"files of kinds that are not read, 1 .raw: {bottle / 'train/good/a.raw'}",
        f"files of several frames, of which the first is read, 1: {bottle / 'train/good/0.gif'}",
    ]
    hidden = [bottle / name for name in ("test/.ipynb_checkpoints", "train/good/.hidden", "train/good/Thumbs.db")]
    assert found.text.endswith(f"\n  hidden files and folders that are left out, 3: {', '.join(map(str, hidden))}")


def test_the_report_of_2000_images_takes_less_than_10_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "part/train/good"
    folder.mkdir(parents=True)
    Image.new("L", (64, 64)).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    for i in range(2000):  # all files have the same size, so the inspection hashes all of them
        content[-2000:-1996] = i.to_bytes(4, "little")
        (folder / f"{i}.bmp").write_bytes(content)
    samples = MVTec(tmp_path / "part").samples()
    begin = time.process_time()
    assert report(samples).warnings == []
    assert time.process_time() - begin < 10  # a machine of 2026 takes 1 second


def test_large_images_are_read_one_at_a_time(tmp_path: Path, bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads that each hold an image of a whole slide would exhaust the memory of the machine."""
    monkeypatch.setattr(inspection, "PIXELS_AT_ONCE", 20 * 24)
    together = [0, 0]  # the number now and the highest number
    look = read_max_value

    def slow(path: Path, view: View) -> int:
        together[0] += 1
        together[1] = max(together)
        time.sleep(0.01)
        together[0] -= 1
        return look(path, view)

    monkeypatch.setattr(inspection, "read_max_value", slow)
    report(MVTec(bottle).samples())
    assert together == [0, 1]
    monkeypatch.setattr(inspection, "PIXELS_AT_ONCE", 2 * 20 * 24)
    report(MVTec(bottle).samples())
    assert together == [0, 2]


@pytest.mark.parametrize("name", ["hazelnut_toy", "magnetic_tile", "glass_fibre"])
def test_real_data_sets_have_no_warning_and_no_error(shared: Path, name: str) -> None:
    found = report(MVTec(shared / "data" / name).samples())
    assert (found.warnings, found.errors) == ([], [])
    assert found.text.startswith(f"{name}: ") and os.linesep not in found.text


def test_a_category_without_held_out_images_is_reported(
    bottle: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("cork/train/good/0.png")
    source = MVTec(bottle.parent)
    said = "\n  no image of cork is held out: its threshold comes from all categories\n"
    print_summary(list_splits(source), source, View())
    assert said in capsys.readouterr().out
    write("cork/train/good/1.png")  # some fold of leave-one-out has no image of cork
    splits = [list_splits(source, Split(folds="leave-one-out", fold=fold)) for fold in range(3)]
    without = next(each for each in splits if all(sample.category != "cork" for sample in each.val))
    print_summary(without, source, View())
    assert "no image of" not in capsys.readouterr().out
