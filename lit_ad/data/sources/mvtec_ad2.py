"""MVTec AD 2: a validation split of its own, a public test with masks, private tests without labels.

Heckler-Kram et al., https://arxiv.org/abs/2503.21622.
"""

from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.source import list_folders, list_images, pair_masks
from lit_ad.errors import UserError
from lit_ad.evaluation.protocols import Rules

PRIVATE = ("test_private", "test_private_mixed")
_THRESHOLD = (
    "the pixel threshold of the checkpoint, which the maps of the held-out nominal images set at "
    "decision.false_alarm (the benchmark allows any threshold that is set without test images)"
)
METRICS = {
    "aupro_05": "area under the per-region overlap up to a false positive rate of 0.05, divided by it, over all of "
    "test_public of an object; at full resolution, by all thresholds",
    "seg_f1": f"F1 of an object's pixels, pooled over test_public (our reading), at {_THRESHOLD}",
    "class_f1": "F1 of an object's images; an image is called anomalous if any of its pixels is, by the same decision",
}


class MVTecAD2(MVTec):
    """MVTec AD 2, scored by its own rules on test_public.

    The images of `validation/good` are held out, so that all images of train/good are trained on. The private tests
    have no labels; `lit-ad submission` predicts them.

    Args:
        root: One object (the folder that holds train/good), or a folder of objects.
        category: The objects to take from a folder of objects. None: all.
    """

    def samples(self) -> list[Sample]:
        order = ("train", "validation", "test")
        listed = [sample for folder in self._find_categories() for sample in _list_object(folder)]
        return sorted(listed, key=lambda sample: order.index(sample.split))

    def list_private(self) -> dict[str, list[Path]]:
        """Return the images of the private tests, by object. Raises UserError if an object has none."""
        folders = {folder.absolute().name: folder for folder in self._find_categories()}
        return {
            name: [image for part in PRIVATE for image in list_images(folder / part)]
            for name, folder in folders.items()
        }

    def remarks(self) -> list[str]:
        return []

    def rules(self) -> Rules:
        """Return the rules: AU-PRO up to a false positive rate of 0.05, and F1 at the checkpoint's pixel threshold."""
        return Rules("MVTec AD 2", METRICS, tuple(METRICS))


def _list_object(root: Path) -> list[Sample]:
    """List the samples of one object. Raises UserError if its folders are not those of MVTec AD 2."""
    category, test = root.absolute().name, root / "test_public"
    listed = [Sample(image, 0, None, category) for image in list_images(root / "train" / "good")]
    listed += [Sample(x, 0, None, category, split="validation") for x in list_images(root / "validation" / "good")]
    for folder in list_folders(test):
        if folder.name not in ("good", "bad", "ground_truth"):
            raise UserError(f"{folder} is no folder of MVTec AD 2: test_public has good, bad and ground_truth")
    for defect in ("bad", "good") if test.is_dir() else ():
        images, truth = list_images(test / defect), test / "ground_truth" / defect
        masks = pair_masks(images, list_images(truth)) if defect == "bad" and truth.is_dir() else {}
        listed += [Sample(image, int(defect == "bad"), masks.get(image), category, defect, "test") for image in images]
    return listed
