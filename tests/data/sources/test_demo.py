import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import Demo
from lit_ad.data.sources import demo
from lit_ad.errors import UserError

pytest.importorskip("skimage", reason="the demo's photographs come with scikit-image")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    Demo(root).prepare()
    return root


def test_the_demo_has_fixed_numbers_of_images_and_masks(root: Path) -> None:
    samples = Demo(root).samples()
    counts = Counter((s.category, s.split, s.defect) for s in samples)
    assert set(counts.values()) == {60, 24, 8} and len(counts) == 3 * 6
    assert all((s.mask is None) == (s.label == 0) for s in samples)
    assert {s.category for s in Demo(root, "brick").samples()} == {"brick"}


def test_each_surface_is_a_task(root: Path, tmp_path: Path) -> None:
    tasks = Demo(tmp_path).tasks()
    assert list(tasks) == ["brick", "grass", "gravel"]
    assert not list(tmp_path.iterdir())  # the tasks are known before a picture is drawn
    for name, arguments in tasks.items():
        assert {s.category for s in Demo(root, **arguments).samples()} == {name}
    assert Demo(tmp_path, "grass").tasks() == {"grass": {"category": "grass"}}
    assert list(Demo(tmp_path, ["gravel", "brick"]).tasks()) == ["gravel", "brick"]


def test_defects_are_small_visible_and_exactly_masked() -> None:
    photograph = demo.read_photograph("gravel")[:, demo.BORDER :]
    for draw in demo.DEFECTS.values():
        for seed in range(20):
            generator = np.random.default_rng(seed)
            image = demo.crop(photograph, generator)
            damaged, mask = draw(image, generator, demo.TEXTURES["gravel"])
            change = np.abs(damaged - image)[mask]
            assert 20 < mask.sum() < 0.15 * mask.size, draw
            assert change.mean() > 4, draw


def test_the_demo_draws_the_same_pictures_again(root: Path, tmp_path: Path) -> None:
    demo.write("grass", tmp_path / "grass")
    for path in (tmp_path / "grass").rglob("*.png"):
        first = root / demo.VERSION / path.relative_to(tmp_path)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(first))), path


def test_the_demo_is_written_once_into_the_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "TEXTURES", {"brick": 1.0})
    Demo().prepare()
    assert [p.name for p in (tmp_path / "lit_ad").iterdir()] == [demo.VERSION]
    monkeypatch.setattr(demo, "write", None)
    Demo().prepare()


MAKE = """
import sys
from pathlib import Path
from lit_ad.data import Demo
from lit_ad.data.sources import demo

demo.TEXTURES = {"brick": 1.0}
print(len(Demo(Path(sys.argv[1]), "brick").samples()))
"""


def test_two_processes_can_write_the_demo_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(process.communicate(timeout=600)[0]) for process in processes] == [116, 116]
    assert [p.name for p in tmp_path.iterdir()] == [demo.VERSION]


def test_a_failed_write_of_the_demo_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(texture: str, folder: Path) -> None:
        folder.mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(demo, "write", fail)
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}: disk full; give another data.source.root"):
        Demo(tmp_path).prepare()
    assert not list(tmp_path.iterdir())


def test_the_demo_asks_for_scikit_image_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install lit-ad\[demo\]"):
        Demo(tmp_path).samples()


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}/file/x: .*; give another data.source.root$"):
        Demo(tmp_path / "file/x").prepare()
