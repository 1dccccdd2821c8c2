"""These tests split labelled folders into one nominal class and anomalous classes, and write data sets of torchvision
as such folders."""

import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from lit_ad.data.sources.one_class import OneClass, list_classes, make_classes
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog", "ship"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    return tmp_path / "pets"


def test_one_class_is_nominal_where_normal_is_given(root: Path) -> None:
    samples = OneClass(root, normal=["cat"]).samples()
    check_samples(samples)
    train = [s for s in samples if s.split == "train"]
    test = [s for s in samples if s.split == "test"]
    assert samples == train + test
    assert {s.image.parent for s in train} == {root / "train" / "cat"}
    assert [s.label for s in train] == [0] * 3
    assert [(s.defect, s.label) for s in test] == [("good", 0)] * 2 + [("dog", 1)] * 2 + [("ship", 1)] * 2
    assert {s.category for s in samples} == {"pets"}
    assert all(s.mask is None for s in samples)


def test_all_classes_but_one_are_nominal_where_anomalous_is_given(root: Path) -> None:
    samples = OneClass(root, anomalous=["cat"]).samples()
    check_samples(samples)
    assert sorted({s.image.parent.name for s in samples if s.split == "train"}) == ["dog", "ship"]
    assert [s.defect for s in samples if s.split == "test"] == ["cat"] * 2 + ["good"] * 4


def test_wrong_classes_and_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give either"):
        OneClass(root)
    with pytest.raises(UserError, match="give either"):
        OneClass(root, normal=["cat"], anomalous=["dog"])
    with pytest.raises(UserError, match=r"no class cow in .*pets: there are cat, dog, ship"):
        OneClass(root, normal=["cow"]).samples()
    with pytest.raises(UserError, match="leave a class to train on"):
        OneClass(root, anomalous=["cat", "dog", "ship"]).samples()
    with pytest.raises(UserError, match="expected train/CLASS and test/CLASS"):
        OneClass(tmp_path / "nowhere", normal=["cat"]).samples()


def test_each_class_in_turn_is_a_task(root: Path) -> None:
    """Each class is in turn the one nominal class (with `normal`) or the one anomalous class (with `anomalous`),
    whichever class the user gave."""
    cases: list[tuple[dict[str, Any], int]] = [({"normal": ["dog"]}, 0), ({"anomalous": ["dog"]}, 1)]
    for given, label in cases:
        tasks = OneClass(root, **given).tasks()
        assert list(tasks) == ["cat", "dog", "ship"]
        for name, arguments in tasks.items():
            samples = OneClass(**{"root": root, **given, **arguments}).samples()
            check_samples(samples)
            assert {s.image.parent.name for s in samples if s.label == label} == {name}
            assert {s.image.parent.name for s in samples} == {"cat", "dog", "ship"}
    with pytest.raises(UserError, match="expected train/CLASS and test/CLASS"):
        OneClass(root / "train", normal=["cat"]).tasks()


def write_mnist(folder: Path, labels: list[int]) -> None:
    """Write files in the format of MNIST and Fashion-MNIST."""
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        images = np.arange(len(labels) * 784, dtype=np.uint8).tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, len(labels), 28, 28) + images)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + bytes(labels))


def test_mnist_and_fashion_mnist_are_written_as_folders_of_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", [3, 1, 3])
    source = OneClass(tmp_path / "digits", normal=["3"], download="mnist")
    source.prepare()
    source.prepare()  # the second call finds the folders
    assert list_classes(tmp_path / "digits") == ["1", "3"]
    assert [s.image.name for s in source.samples() if s.split == "train"] == ["00000.png", "00002.png"]
    pixels = np.asarray(Image.open(tmp_path / "digits" / "train" / "1" / "00001.png"))
    assert (pixels == np.arange(784, 1568).astype(np.uint8).reshape(28, 28)).all()

    write_mnist(tmp_path / "FashionMNIST" / "raw", [0, 9])
    OneClass(tmp_path / "fashion", normal=["Bag"], download="fashion_mnist").prepare()
    assert list_classes(tmp_path / "fashion") == ["Ankle-boot", "T-shirt-top"]
    assert not list(tmp_path.glob(".*"))


def test_cifar100_is_written_as_folders_of_superclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = {
        "data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072),
        "fine_labels": [1, 0],
        "coarse_labels": [0, 1],
    }
    names = {"fine_label_names": ["maple", "trout"], "coarse_label_names": ["fish", "trees"]}
    for name, content in {"train": rows, "test": rows, "meta": names}.items():
        (folder / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": None})
    source = OneClass(tmp_path / "coarse", anomalous=["trees"], download="cifar100")
    source.prepare()
    assert [(s.image.relative_to(tmp_path / "coarse").as_posix(), s.label) for s in source.samples()] == [
        ("train/fish/00000.png", 0),
        ("test/fish/00000.png", 0),
        ("test/trees/00001.png", 1),
    ]


def test_a_failed_download_says_where_to_put_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: datasets.CIFAR10) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(UserError, match=r"cifar10 could not be downloaded .*no network.*put torchvision's files"):
        OneClass(tmp_path / "x" / "c10", normal=["cat"], download="cifar10").prepare()
    assert not list((tmp_path / "x").iterdir())


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", [3])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="is not empty but has no train folder"):
        OneClass(tmp_path / "mine", normal=["3"], download="mnist").prepare()
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_the_shared_part_of_cifar10_has_the_known_numbers_of_images(shared: Path) -> None:
    samples = OneClass(shared / "data" / "cifar10", normal=["ship"]).samples()
    check_samples(samples)
    assert sum(s.split == "train" for s in samples) == 1000
    assert sum(s.split == "test" and s.label == 0 for s in samples) == 200
    assert sum(s.label == 1 for s in samples) == 1800


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}/file/x: .*; give another data.source.root$"):
        make_classes(tmp_path / "file/x/cifar", "cifar10")
