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
    """Images of classes, `ROOT/train/CLASS` and `ROOT/test/CLASS`.

    Training takes the train images of the nominal classes, the test takes all test images. The defect type of an
    anomalous image is its class.

    Args:
        root: The folder that holds `train` and `test`.
        normal: The nominal classes; all others are anomalous. One nominal class is the unimodal task.
        anomalous: The anomalous classes; all others are nominal (the multimodal task). Give this or `normal`.
        download: If `root` does not exist, make it from a data set of torchvision: CIFAR-10, CIFAR-100 by its 20
            superclasses, MNIST or Fashion-MNIST. Files that torchvision has already downloaded beside `root` are used.
    """

    def __init__(
        self,
        root: Path,
        normal: list[str] | None = None,
        anomalous: list[str] | None = None,
        download: Download | None = None,
    ) -> None:
        if not normal and not anomalous:
            raise UserError("OneClass needs the nominal classes: give either `normal` or `anomalous`")
        if normal and anomalous:
            raise UserError("give either `normal` or `anomalous`: the classes in neither would have no label")
        self.root = resolve_path(root)
        self.normal, self.anomalous, self.download = normal, anomalous, download

    def prepare(self) -> None:
        if self.download:
            make_classes(self.root, self.download)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each class: as the only nominal class (unimodal) if `normal` is given, otherwise as the
        only anomalous one (multimodal)."""
        names = list_classes(self.root)
        # A task sets both arguments: an argument that it left out would keep this source's value.
        if self.normal:
            return {name: {"normal": [name], "anomalous": None} for name in names}
        return {name: {"normal": None, "anomalous": [name]} for name in names}

    def samples(self) -> list[Sample]:
        known = list_classes(self.root)
        unknown = [name for name in self.normal or self.anomalous or [] if name not in known]
        if unknown:
            raise UserError(f"no class {', '.join(unknown)} in {self.root}: there are {', '.join(known)}")
        nominal = self.normal or [name for name in known if name not in (self.anomalous or [])]
        if len(nominal) == 0:
            raise UserError(f"all classes of {self.root} are anomalous: leave a class to train on out of `anomalous`")
        category = self.root.absolute().name
        listed = [Sample(x, 0, None, category) for name in nominal for x in list_images(self.root / "train" / name)]
        for name in known:
            label = int(name not in nominal)
            images = list_images(self.root / "test" / name)
            listed += [Sample(x, label, None, category, name if label else "good", "test") for x in images]
        return listed


def list_classes(root: Path) -> list[str]:
    """Return the names of the classes in a folder of train/CLASS and test/CLASS, sorted.

    Raises:
        UserError: `root` does not have this layout.
    """
    names = [folder.name for folder in list_folders(root / "test")]
    if not names or not (root / "train").is_dir():
        raise UserError(f"no classes in {root}: expected train/CLASS and test/CLASS folders (or set `download`)")
    return names


def make_classes(root: Path, download: Download) -> None:
    """Make ROOT/train/CLASS and ROOT/test/CLASS from a data set of torchvision. Several processes may do so at once.

    Raises:
        UserError: The data set cannot be downloaded, or `root` has other files.
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
            for i, (image, name) in enumerate(_load_labelled(root.parent, Path(scratch), download, split == "train")):
                file = images / split / re.sub(r"[^\w-]+", "-", name) / f"{i:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)
        try:
            images.rename(root)
        except OSError as error:
            if not (root / "train").is_dir():  # otherwise another process has made it first
                raise UserError(f"{root} is not empty but has no train folder: give another root") from error


def _load_labelled(beside: Path, scratch: Path, download: Download, train: bool) -> Iterator[tuple[Image.Image, str]]:
    """Yield images and class names, from torchvision's files in `beside`, or downloaded to `scratch`."""
    from torchvision import datasets  # imported here: it takes seconds, and only a download needs it

    kind = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
    }[download]
    try:
        dataset = kind(beside, train=train)
    except RuntimeError:  # `beside` has no such files
        try:
            dataset = kind(scratch, train=train, download=True)
        except Exception as error:
            raise UserError(
                f"{download} could not be downloaded ({type(error).__name__}: {error}); on a machine with internet "
                f"access run this once, or put torchvision's files of it in {beside}"
            ) from error
    names, targets = dataset.classes, [int(target) for target in dataset.targets]
    if isinstance(dataset, datasets.CIFAR100):  # its files have both labels; torchvision has verified them
        folder = Path(dataset.root, dataset.base_folder)
        names = pickle.loads((folder / "meta").read_bytes(), encoding="latin1")["coarse_label_names"]
        rows = pickle.loads((folder / ("train" if train else "test")).read_bytes(), encoding="latin1")
        targets = rows["coarse_labels"]
    for i, target in enumerate(targets):
        name = names[target]
        yield dataset[i][0], name.split(" - ")[0] if download == "mnist" else name
