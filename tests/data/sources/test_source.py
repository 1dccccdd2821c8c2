import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_ad import data
from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, Folder, Images, MVTec, OneClass, Table
from lit_ad.data.sources.source import (
    Source,
    check_root,
    check_samples,
    holds_images,
    list_folders,
    list_images,
    pair_masks,
)
from lit_ad.errors import UserError
from lit_ad.image.view import View


def test_images_are_listed_in_order_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.tiff", ".DS_Store", "._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]


def test_errors_of_missing_images_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no image in .*empty: it should hold"):
        list_images(tmp_path / "empty")
    (tmp_path / "empty" / "inner" / "a.png").touch()
    with pytest.raises(UserError, match=r"1 lie in folders inside it"):
        list_images(tmp_path / "empty")
    for name in "ab":
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / f"links/{name}.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"no image in .*links \(2 are broken links\)"):
        list_images(tmp_path / "links")


@pytest.fixture
def as_nobody() -> Iterator[Callable[[], Path]]:
    """Make a folder that all users may read, and a function that changes this process to a user without root's rights:
    permissions do not bind root."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    was = os.geteuid()

    def become() -> Path:
        if was == 0:
            os.seteuid(65534)
        return folder

    try:
        yield become
    finally:
        os.seteuid(was)
        for inside in folder.rglob("*"):
            if not inside.is_symlink():
                inside.chmod(0o755)
        shutil.rmtree(folder)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"a.png is a file: data.source.root is the folder that holds the images"):
        check_root(MVTec, tmp_path / "a.png")


@pytest.mark.parametrize("rights", [0o000, 0o111, 0o444])
def test_a_folder_without_permission_to_read_is_an_error(
    as_nobody: Callable[[], Path], bottle: Path, rights: int
) -> None:
    """The rights allow neither listing nor entering, then only entering, then only listing."""
    folder = as_nobody()
    os.seteuid(os.getuid())
    part = shutil.copytree(bottle, folder / "part")
    closed = part / "test/good"
    closed.chmod(rights)
    as_nobody()
    read: list[Callable[[], object]] = [
        lambda: list_images(closed),
        lambda: MVTec(part).samples(),
        lambda: AnomalyDataModule(MVTec(part), View(16)).setup("fit"),
        lambda: Folder("train/good", "test/good", root=part).samples(),
        lambda: Images(part / "test").samples(),
    ]
    if rights != 0o444:
        read.append(lambda: holds_images(closed))
    for listing in read:
        with pytest.raises(UserError, match=rf"cannot read {closed}.*: Permission denied; check its permissions"):
            listing()
    os.seteuid(os.getuid())
    closed.chmod(0o755)
    part.chmod(rights)
    as_nobody()
    for source in (MVTec(part), OneClass(part, ["good"])):
        if rights == 0o111:  # entering is enough: all folders are found by their names
            AnomalyDataModule(source, View(16)).setup("fit")
            continue
        with pytest.raises(UserError, match=rf"cannot read {part}.*: Permission denied; check its permissions"):
            AnomalyDataModule(source, View(16)).setup("fit")
    if rights != 0o111:
        with pytest.raises(UserError, match=rf"cannot read {part}.*: Permission denied"):
            list_folders(part / "test")


SOURCES = [getattr(data, name) for name in data.__all__ if name != "Source"]
MORE = {"Table": {"table": "a.csv"}, "Folder": {"nominal": "good"}, "OneClass": {"normal": "a"}}


@pytest.mark.parametrize("kind", [one for one in SOURCES if isinstance(one, type) and issubclass(one, Source)])
def test_tilde_and_dots_in_a_root_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for root, expected in (("~/a", tmp_path / "home/a"), ("b/../c", tmp_path / "c")):
        source: Any = kind(root=root, **MORE.get(kind.__name__, {}))
        assert expected in (source.root, source.root.parent)  # Demo's root is a folder below


def test_tilde_and_dots_in_other_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = Folder(["good", "../b", "~/c"], root=tmp_path / "a")
    assert source.nominal == [tmp_path / "a/good", tmp_path / "b", tmp_path / "home/c"]
    assert Table(tmp_path / "a", "~/t.csv").table == tmp_path / "home/t.csv"
    assert Table(tmp_path / "a", "../t.csv").table == tmp_path / "t.csv"


def test_a_category_has_the_name_of_its_folder_where_the_root_is_two_dots(
    bottle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bottle / "train")
    assert {sample.category for sample in MVTec(Path("..")).samples()} == {bottle.name}
    assert {sample.category for sample in Folder("train/good", root=Path("..")).samples()} == {bottle.name}


def test_two_images_with_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"two files with one name: .*a.jpg and .*a.png"):
        list_images(tmp_path)


def test_a_mask_has_the_name_of_its_image_with_or_without_mask_suffix() -> None:
    images = [Path("i/a.jpg"), Path("i/b.jpg"), Path("i/c.jpg"), Path("i/c_mask.jpg")]
    masks = [Path("m/a_mask.png"), Path("m/b.png"), Path("m/c_mask.png")]
    assert pair_masks(images, masks) == {images[0]: masks[0], images[1]: masks[1], images[3]: masks[2]}


def test_mask_errors_name_the_mask() -> None:
    with pytest.raises(UserError, match=r"mask without an image: m/x_mask.png"):
        pair_masks([Path("i/a.jpg")], [Path("m/x_mask.png")])
    with pytest.raises(UserError, match=r"two masks for i/a.jpg: m/a.png and m/a_mask.png"):
        pair_masks([Path("i/a.jpg")], [Path("m/a.png"), Path("m/a_mask.png")])


def test_an_anomalous_training_image_and_a_repeated_image_are_refused() -> None:
    good = Sample(Path("x/a.png"), 0)
    check_samples([good, Sample(Path("x/b.png"), 1, defect="dent", split="test")])
    with pytest.raises(UserError, match=r"anomalous image in training: x/b.png \(dent\)"):
        check_samples([good, Sample(Path("x/b.png"), 1, defect="dent")])
    with pytest.raises(UserError, match=r"listed twice: x/a.png, as train/good and as test/good"):
        check_samples([good, Sample(Path("x/a.png"), 0, split="test")])


def test_an_item_in_two_splits_is_refused() -> None:
    parts = [Sample(Path(f"x/{i}.png"), 0, category="nut", item="a") for i in range(2)]
    # An item of another category with the same name.
    check_samples([*parts, Sample(Path("y/0.png"), 0, category="bolt", item="a", split="test")])
    with pytest.raises(UserError, match=r"item 'a' in train and in test: x/0.png and x/2.png; keep its images on one"):
        check_samples([*parts, Sample(Path("x/2.png"), 0, category="nut", item="a", split="test")])


class Shelf(Source):
    def samples(self) -> list[Sample]:
        return []


def test_a_data_set_is_one_task_unless_its_source_says_otherwise() -> None:
    assert Shelf().tasks() == {"all": {}}
