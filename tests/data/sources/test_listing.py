import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lit_ad.data
from lit_ad.data.sources.listing import is_hidden, list_folder, list_frame_remarks, list_tree
from lit_ad.data.sources.source import list_images
from lit_ad.image.pixels import EXTENSIONS, read_image, read_upright_size


def make(root: Path, *names: str) -> None:
    """Create empty files, and folders for names that end in a slash."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_the_files_and_folders_in_a_folder_are_sorted_by_kind(tmp_path: Path) -> None:
    make(
        tmp_path, "b.JPG", "a.png", "c/", "d.png/", ".e/", ".DS_Store", "._a.png", "Thumbs.db", "notes.txt", "no_suffix"
    )
    links = {"gone.png": "nowhere", "gone": "nowhere", "gone.txt": "nowhere", "self.png": "self.png"}
    links |= {"linked.png": "a.png", "linked": "c"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.png")
    listing = list_folder(tmp_path)
    assert {kind: names(paths, tmp_path) for kind, paths in vars(listing).items()} == {
        "images": ["a.png", "b.JPG", "linked.png"],
        "folders": ["c", "d.png", "linked"],
        "broken": ["gone", "gone.png", "self.png"],
        "hidden": [".DS_Store", "._a.png", ".e", "Thumbs.db"],
        "other": ["gone.txt", "no_suffix", "notes.txt", "pipe.png"],
        "repeated": [],
    }


@pytest.mark.parametrize(
    "name", [".x.png", "._x.png", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "Thumbs.db", "THUMBS.DB", "$RECYCLE.BIN"]
)
def test_names_of_hidden_and_system_files_are_hidden(name: str) -> None:
    assert is_hidden(name) and not is_hidden(f"a{name}")


def test_linked_folders_are_followed_and_hidden_ones_are_not(tmp_path: Path) -> None:
    make(
        tmp_path, "new/a.png", "new/line1/b.png", "new/line1/.ipynb_checkpoints/b-checkpoint.png", "new/x/@eaDir/t.jpg"
    )
    make(tmp_path, "elsewhere/c.png", "elsewhere/deeper/d.png", "elsewhere/.cache/e.png")
    (tmp_path / "new/line2").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/.cache/visible").mkdir()
    (tmp_path / "new/line3").symlink_to("../elsewhere/.cache")  # the name of the link itself is not hidden
    listing = list_tree(tmp_path / "new")
    assert names(listing.images, tmp_path / "new") == [
        *("a.png", "line1/b.png", "line2/c.png", "line2/deeper/d.png", "line3/e.png")
    ]
    assert names(listing.hidden, tmp_path / "new") == ["line1/.ipynb_checkpoints", "line2/.cache", "x/@eaDir"]
    assert listing.repeated == []
    (tmp_path / "link").symlink_to("new")
    assert names(list_tree(tmp_path / "link").images, tmp_path / "link") == names(listing.images, tmp_path / "new")


def test_each_folder_is_listed_once(tmp_path: Path) -> None:
    """The links point to the root, to folders beside and above them, twice to one folder, and in a circle."""
    make(tmp_path, "root/a/0.png", "root/z/1.png", "apart/2.png", "left/3.png", "right/4.png", "5.png")
    links = {"root/loop": ".", "root/a/up": "../..", "root/b": "z", "root/c": "../apart", "root/d": "../apart"}
    links |= {"root/left": "../left", "left/right": "../right", "right/left": "../left", "right/top": "../root"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    listing = list_tree(tmp_path / "root")
    assert names(listing.images, tmp_path / "root") == [
        *("a/0.png", "c/2.png", "left/3.png", "left/right/4.png", "z/1.png")
    ]
    assert names(listing.repeated, tmp_path / "root") == [
        *("a/up", "b", "d", "left/right/left", "left/right/top", "loop")
    ]


def test_files_and_folders_that_are_not_read_are_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.png", ".b.png", "c.txt", "d.TXT", "e.raw", "f.raw", "g")
    (tmp_path / "loop").symlink_to(".")
    shown = ", ".join(str(tmp_path / name) for name in ("c.txt", "d.TXT", "e.raw"))
    assert list_tree(tmp_path).remarks() == [
        f"files of kinds that are not read, 2 .raw, 2 .txt, 1 g: {shown} and 2 more",
        f"hidden files and folders that are left out, 1: {tmp_path / '.b.png'}",
        f"links to folders that are listed already, and not followed, 1: {tmp_path / 'loop'}",
    ]
    make(tmp_path, "empty/")
    assert list_tree(tmp_path / "empty").remarks() == []


@pytest.mark.parametrize("suffix", [*EXTENSIONS, ".JFIF", ".Jpe", ".PGM"])
def test_each_suffix_is_listed_and_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM", ".pgm": "PPM", ".j2k": "JPEG2000"}.get(suffix.lower())
    mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix.lower(), "RGB")
    Image.fromarray(np.full((20, 24), 255, np.uint8)).convert(mode).save(file, format=kind)
    assert list_images(tmp_path) == list_tree(tmp_path).images == [file]
    assert read_upright_size(file) == (20, 24) and (read_image(file) >= 250).all()


def test_the_first_of_several_frames_is_read_and_the_others_are_reported(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 200, 250)]
    files = [tmp_path / name for name in ("a.gif", "b.gif", "c.webp", "d.png")]
    frames[0].save(files[0])
    for file in files[1:3]:
        frames[0].save(file, save_all=True, append_images=frames[1:])
    frames[0].save(files[3])
    assert read_image(files[1]).max() == 0
    (tmp_path / "e.gif").write_bytes(b"GIF89a")  # the reader of the image reports the damage
    assert list_frame_remarks([*files, tmp_path / "e.gif"]) == [
        f"files of several frames, of which the first is read, 2: {files[1]}, {files[2]}"
    ]
    assert list_frame_remarks(files[:1]) == []


def test_only_the_module_listing_searches_folders_in_lit_ad_data() -> None:
    """All sources and commands then find the same images in a folder."""
    ways = ("iterdir(", "scandir(", "rglob(", ".glob(", "os.walk(", "listdir(", ".walk(")
    files = [path for path in Path(lit_ad.data.__file__).parent.rglob("*.py") if path.name != "listing.py"]
    assert len(files) > 20
    assert [path.name for path in files if any(way in path.read_text(encoding="utf-8") for way in ways)] == []
