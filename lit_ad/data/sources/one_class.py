"""Labelled images as a one-class problem: some classes are nominal, all others anomalous."""

import pickle
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.source import Source, list_folders, list_images
from lit_ad.errors import UserError
from lit_ad.files import explain_write_errors, resolve_path

Download = Literal["cifar10", "cifar100", "mnist", "fashion_mnist"]


class OneClass(Source):
    """Images of classes, `ROOT/train/CLASS` and `ROOT/test/CLASS`; the name of an anomalous class is its defect type.

    Training takes the train images of the nominal classes, the test all test images.

    Args:
        root: The folder that holds `train` and `test`.
        normal: The nominal classes; all others are anomalous (unimodal, when it is one).
        anomalous: The anomalous classes; all others are nominal (multimodal). Give this or `normal`.
        download: Make `root` from this data set of torchvision's, if it is not there: CIFAR-10, CIFAR-100 by its 20
            superclasses, MNIST or Fashion-MNIST. What torchvision has already downloaded beside `root` is used.
    """

    def __init__(
        self,
        root: Path,
        normal: list[str] | None = None,
        anomalous: list[str] | None = None,
        download: Download | None = None,
    ) -> None:
        if not normal and not anomalous:
            raise UserError("say which classes are nominal: give either `normal` or `anomalous`")
        if normal and anomalous:
            raise UserError("give either `normal` or `anomalous`: the classes in neither would have no label")
        self.root = resolve_path(root)
        self.normal, self.anomalous, self.download = normal, anomalous, download

    def prepare(self) -> None:
        if self.download:
            prepare(self.root, self.download)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Each class in turn: nominal alone (unimodal) where `normal` is given, else anomalous alone (multimodal)."""
        names = classes(self.root)
        # Both arguments: what is not said here would stay as the source has it.
        if self.normal:
            return {name: {"normal": [name], "anomalous": None} for name in names}
        return {name: {"normal": None, "anomalous": [name]} for name in names}

    def samples(self) -> list[Sample]:
        known = classes(self.root)
        unknown = [name for name in self.normal or self.anomalous or [] if name not in known]
        if unknown:
            raise UserError(f"no class {', '.join(unknown)} in {self.root}: there are {', '.join(known)}")
        nominal = self.normal or [name for name in known if name not in (self.anomalous or [])]
        if len(nominal) == 0:
            raise UserError(f"all classes of {self.root} are anomalous: none is left to train on")
        category = self.root.absolute().name
        listed = [Sample(x, 0, None, category) for name in nominal for x in list_images(self.root / "train" / name)]
        for name in known:
            label = int(name not in nominal)
            images = list_images(self.root / "test" / name)
            listed += [Sample(x, label, None, category, name if label else "good", "test") for x in images]
        return listed


def classes(root: Path) -> list[str]:
    """The classes in a folder of train/CLASS and test/CLASS, sorted.

    Raises:
        UserError: `root` has no such layout.
    """
    names = [folder.name for folder in list_folders(root / "test")]
    if not names or not (root / "train").is_dir():
        raise UserError(f"no classes in {root}: expected train/CLASS and test/CLASS folders (or set `download`)")
    return names


def prepare(root: Path, download: Download) -> None:
    """Make ROOT/train/CLASS and ROOT/test/CLASS from torchvision's data set; several processes may try at once.

    Raises:
        UserError: It could not be downloaded.
        UserError: `root` holds something else.
    """
    if (root / "train").is_dir():
        return
    remedy = "give another data.source.root"
    with explain_write_errors(root.parent, remedy):
        root.parent.mkdir(parents=True, exist_ok=True)
    with (
        explain_write_errors(root, remedy),
        tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as scratch,
    ):
        images = Path(scratch, "images")
        for split in ("train", "test"):
            for i, (image, name) in enumerate(labelled(root.parent, Path(scratch), download, split == "train")):
                file = images / split / re.sub(r"[^\w-]+", "-", name) / f"{i:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)
        try:
            images.rename(root)
        except OSError as error:
            if not (root / "train").is_dir():  # else another process was faster
                raise UserError(f"{root} is not empty but has no train folder: give another root") from error


def labelled(beside: Path, scratch: Path, download: Download, train: bool) -> Iterator[tuple[Image.Image, str]]:
    """Images and class names, from files in `beside`, else downloaded to `scratch`."""
    from torchvision import datasets  # which takes seconds, and only a download needs it

    kind = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
    }[download]
    try:
        dataset = kind(beside, train=train)
    except RuntimeError:  # not there
        try:
            dataset = kind(scratch, train=train, download=True)
        except Exception as error:
            raise UserError(
                f"{download} could not be downloaded ({type(error).__name__}: {error}); on a machine with a network "
                f"run this once, or put torchvision's files of it in {beside}"
            ) from error
    names, targets = dataset.classes, [int(target) for target in dataset.targets]
    if isinstance(dataset, datasets.CIFAR100):  # its files, whose checksums torchvision has seen to, hold both labels
        folder = Path(dataset.root, dataset.base_folder)
        names = pickle.loads((folder / "meta").read_bytes(), encoding="latin1")["coarse_label_names"]
        rows = pickle.loads((folder / ("train" if train else "test")).read_bytes(), encoding="latin1")
        targets = rows["coarse_labels"]
    for i, target in enumerate(targets):
        name = names[target]
        yield dataset[i][0], name.split(" - ")[0] if download == "mnist" else name
