"""MVTec LOCO AD: logical and structural anomalies, a folder of masks for each image, a validation split of its own.

Bergmann et al., https://doi.org/10.1007/s11263-022-01578-9.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.masks import list_mask_files
from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.source import holds_images, list_folders, list_images, pair_masks
from lit_ad.errors import UserError
from lit_ad.evaluation.protocols import Defect, Rules
from lit_ad.image.pixels import open_image
from lit_ad.threads import Pool

_SUBSETS = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
CONFIG = "defects_config.json"
SPRO = (
    "area under the saturated per-region overlap up to a false positive rate of {}, divided by it; a mask file is one "
    f"defect, saturated as {CONFIG} says; logical and structural anomalies apart, each with all good images, and the "
    "mean of both; at full resolution, by all thresholds"
)
METRICS = {
    "image_auroc": "of the method's image score; logical and structural anomalies apart, each with all good images, "
    "and the mean of both",
    **{f"spro_{name}": SPRO.format(limit) for name, limit in (("05", 0.05), ("01", 0.01), ("10", 0.1))},
    **{f"spro_{name}": SPRO.format(limit) for name, limit in (("30", 0.3), ("100", 1))},
}
ARCHIVE = "some copies of the data set are merged, and cannot be scored by sPRO: take the original archive's masks"

Saturation = tuple[float, bool]  # the threshold of a defect, and whether it is a fraction of its area


class MVTecLOCO(MVTec):
    """MVTec LOCO AD, scored by its own rules.

    The images of `validation/good` are held out, so that all images of train/good are trained on. Masks are
    `ground_truth/TYPE/NNN/000.png`, one file for each defect, whose value is the defect's id in `defects_config.json`.
    Merged copies of the data set are read, too: they have one mask for all defects of an image, or one value for all
    defects. For these, sPRO is left out, because it needs separate defects.

    Args:
        root: One category (the folder that holds train/good), or a folder of categories.
        category: The categories to take from a folder of categories. None: all.
    """

    def samples(self) -> list[Sample]:
        folders = self._find_categories()
        for folder in folders:
            _read_config(folder / CONFIG)  # raises now, and not after the training, if it is wrong
        order = ("train", "validation", "test")
        return sorted(
            (s for folder in folders for s in _list_loco(folder)), key=lambda sample: order.index(sample.split)
        )

    def remarks(self) -> list[str]:
        """Return a sentence for each category without sPRO, and read all masks of the others.

        Raises:
            UserError: A mask has no defect's id. The test would find this only after hours of training.
        """
        lines = [*super().remarks(), *self.rules().remarks]
        for folder in self._find_categories():
            samples, config = _list_loco(folder), _read_config(folder / CONFIG)
            if not _explain_no_spro(samples, config):
                with Pool() as pool:
                    files = [file for sample in samples if sample.label for file in list_mask_files(sample.mask)]
                    wrong = [text for text in pool.map(partial(_explain_no_defect, config), files) if text]
                if wrong:
                    more = f" (and {format_count(len(wrong) - 1, 'other')})" if len(wrong) > 1 else ""
                    raise UserError(wrong[0] + more)
        return lines

    def rules(self) -> Rules:
        """Return the rules: sPRO and image AUROC, for logical and for structural anomalies."""
        folders = {folder.absolute().name: folder for folder in self._find_categories()}
        configs = {name: _read_config(folder / CONFIG) for name, folder in folders.items()}
        missing = {name: _explain_no_spro(_list_loco(folder), configs[name]) for name, folder in folders.items()}

        def read_defects(sample: Sample) -> list[Defect] | None:
            if missing[sample.category]:
                return None
            return [_read_defect(file, configs[sample.category]) for file in list_mask_files(sample.mask)]

        remarks = tuple(f"{name}: no sPRO, since {why}" for name, why in missing.items() if why)
        return Rules("MVTec LOCO AD", METRICS, ("image_auroc", "spro_05"), _SUBSETS, read_defects, remarks)


def _list_loco(root: Path) -> list[Sample]:
    """List the samples of one category. Raises UserError if its folders are not those of MVTec LOCO AD."""
    category = root.absolute().name
    listed = [Sample(image, 0, None, category) for image in list_images(root / "train" / "good")]
    listed += [Sample(x, 0, None, category, split="validation") for x in list_images(root / "validation" / "good")]
    for folder in list_folders(root / "test"):
        if folder.name not in ("good", *_SUBSETS):
            raise UserError(
                f"{folder} is no folder of MVTec LOCO AD: test has good, {' and '.join(_SUBSETS)}. For data with other "
                "defect types, take the source MVTec"
            )
        images, label = list_images(folder), int(folder.name != "good")
        masks = _pair_masks_and_folders(images, root / "ground_truth" / folder.name) if label else {}
        listed += [Sample(image, label, masks.get(image), category, folder.name, "test") for image in images]
    return listed


def _pair_masks_and_folders(images: Sequence[Path], truth: Path) -> dict[Path, Path]:
    """Return the folder of masks, or the mask, of each image. Raises UserError if one belongs to no image."""
    pairs = pair_masks(images, list_images(truth) if holds_images(truth) else [])
    named = {image.stem: image for image in images}
    for folder in list_folders(truth):
        if folder.name not in named:
            raise UserError(f"masks without an image: {folder} belongs to no image named {folder.name}")
        pairs[named[folder.name]] = folder
    return pairs


def _read_config(file: Path) -> dict[int, Saturation]:
    """Return the saturation of each defect by its id, the value of its pixels; empty if the file does not exist.

    Raises:
        UserError: An entry is wrong.
    """
    if not file.is_file():
        return {}
    saturations: dict[int, Saturation] = {}
    try:
        for entry in json.loads(file.read_text(encoding="utf-8")):
            threshold, relative = float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            if not (0 < threshold <= 1 if relative else 1 <= threshold < np.inf):
                raise UserError(
                    f"{file}: the saturation_threshold of {entry.get('defect_name')} is {threshold:g}, but it must be "
                    + ("a share in (0, 1]" if relative else "1 pixel or more")
                )
            if int(entry["pixel_value"]) in saturations:
                raise UserError(f"{file} has two defects of pixel_value {entry['pixel_value']}")
            saturations[int(entry["pixel_value"])] = (threshold, relative)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no list of defects with pixel_value, saturation_threshold and relative_saturation: "
            f"{type(error).__name__} {error}; take it from the data set's archive"
        ) from error
    return saturations


def _explain_no_spro(samples: Iterable[Sample], config: dict[int, Saturation]) -> str:
    """Return why the masks of a category do not separate its defects, so that there is no sPRO; "" if they do."""
    anomalous = [sample for sample in samples if sample.label]
    bare = [sample for sample in anomalous if sample.mask is None]
    if bare:
        every = format_count(len(anomalous), "anomalous image")
        return f"masks are missing of {len(bare)} of {every}, such as {bare[0].image}"
    if not config:
        return f"there is no {CONFIG} in its folder"
    flat = [sample.mask for sample in anomalous if sample.mask is not None and sample.mask.is_file()]
    if flat:
        return f"its masks are merged: {flat[0]} is one file for all defects of an image, not a folder; {ARCHIVE}"
    files = [file for sample in anomalous for file in list_mask_files(sample.mask)]
    types = {sample.defect for sample in anomalous}
    values = _list_ids(_read_grey(files[0])) if files else []
    lost = not config.keys() & values or (len(config) > 1 and len(types) > 1)  # one defect may have a single id
    same = len(values) == 1 and lost and all(_list_ids(_read_grey(file)) == values for file in files)
    if same:
        return (
            f"its masks are merged: all of them have the value {values[0]}, such as {files[0]}, instead of the ids in "
            f"{CONFIG}; {ARCHIVE}"
        )
    return ""


def _read_defect(file: Path, config: dict[int, Saturation]) -> Defect:
    """Return the defect that a mask file marks. Raises UserError if it has no id of the configuration, or several."""
    values = _read_grey(file)
    present = _list_ids(values)
    if len(present) != 1 or present[0] not in config:
        listed = ", ".join(map(str, present)) or "0 alone"
        raise UserError(
            f"{file} has the values {listed}, but needs 0 and the id of one defect, which are "
            f"{', '.join(map(str, sorted(config)))} in {CONFIG}; take it from the data set's archive"
        )
    mask = values > 0
    return Defect(mask, compute_saturation_area(*config[present[0]], int(mask.sum())))


def _explain_no_defect(config: dict[int, Saturation], file: Path) -> str:
    """Return the message of `_read_defect` for a mask file that it refuses; "" for other files."""
    try:
        _read_defect(file, config)
    except UserError as error:
        return str(error)
    return ""


def _read_grey(file: Path) -> np.ndarray:
    """Read a mask file, (H, W). Raises UserError if it is not grey."""
    values = np.asarray(open_image(file))
    if values.ndim != 2:
        raise UserError(f"{file} has colours, but a mask of MVTec LOCO AD is grey: take it from the data set's archive")
    return values


def _list_ids(values: np.ndarray) -> list[int]:
    """Return the values of a mask (H, W) except 0, ascending."""
    return [int(value) for value in np.unique(values) if value]


def compute_saturation_area(threshold: float, relative: bool, area: int) -> int:
    """Return the number of a defect's pixels that count as the whole defect, at least one.

    Args:
        threshold: The defect's saturation threshold.
        relative: Whether the threshold is a fraction of the area, rounded down. Otherwise it is a number of pixels.
        area: The defect's number of pixels, at full resolution; the result is never more.
    """
    return max(1, int(threshold * area) if relative else min(int(threshold), area))
