"""One picture per image: what the network saw, the truth, and where it disagrees with its teacher."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.callbacks.output import file_name, original_map, run_dir, verdict, written

Pixels = NDArray[np.uint8]


class Shown(NamedTuple):
    """A picture written to disk, and how wrong its verdict is (positive: on the wrong side of the threshold)."""

    path: Path
    wrong_by: float
    caption: str


class Heatmaps(L.Callback):
    """Write RUN/heatmaps/CATEGORY/FOLDER/NAME.png for every tested image, for predicted ones below RUN/predictions.

    The colours span the same range in every picture of a run, fixed by nominal validation images: the middle of the
    scale is the hottest that nominal pixels get.

    Args:
        enabled: Write pictures at all.
        height: Of the panels, in pixels.
    """

    def __init__(self, enabled: bool = True, height: int = 320) -> None:
        self.enabled, self.height = enabled, height
        self.shown: list[Shown] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_dir(trainer) / "heatmaps"
        self.shown = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_dir(trainer) / "predictions" / "heatmaps"

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.enabled and outputs is not None:
            self._write(pl_module, outputs, batch)

    on_predict_batch_end = on_test_batch_end

    def _write(self, pl_module: Any, prediction: Prediction, batch: Batch) -> None:
        threshold = float(pl_module.threshold)
        scores = prediction.score.tolist()
        for i, score in enumerate(scores):
            label = int(batch.label[i])
            said = verdict(score, threshold)
            truth = {0: "good", 1: batch.defect[i]}.get(label, "")
            title = f"{Path(batch.path[i]).name}   score {score:.4g}   {said}" + (f"   truth: {truth}" if truth else "")
            image = self._image(pl_module, batch, i)
            heat = None
            if prediction.anomaly_map is not None:
                heat = original_map(prediction, batch, i)
            mask = None if batch.mask is None else batch.mask[i]
            file = self.directory / file_name(batch, i, ".png")
            picture = draw(image, heat, mask, pl_module.map_range.tolist(), title, self.height)
            with written(file) as temporary:
                picture.save(temporary, format="PNG")
            if label >= 0 and not np.isnan(threshold):
                wrong_by = (threshold - score) if label else (score - threshold)
                self.shown.append(Shown(file, wrong_by, title))

    @staticmethod
    def _image(pl_module: Any, batch: Batch, i: int) -> Pixels:
        """The image as the network saw it, at its original proportions: (H, W, 3) uint8."""
        assert batch.image is not None
        image = batch.image[i : i + 1]
        if image.is_floating_point():
            image = pl_module.teacher.denormalize(image)
        top, left, bottom, right = batch.box[i]
        return image[0, :, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()


def draw(
    image: Pixels, heat: Tensor | None, mask: Tensor | None, span: list[float], title: str, height: int
) -> Image.Image:
    """Panels side by side under a title: image with the truth outlined, heatmap over the grey image.

    image (h, w, 3); heat and mask (H0, W0), whose proportions the panels take; span (low, high) of the colours.
    """
    full = tuple(heat.shape) if heat is not None else tuple(mask.shape) if mask is not None else image.shape[:2]
    size = (max(1, round(height * full[1] / full[0])), height)  # cv2's order: width, height
    enlarge = cv2.INTER_LINEAR if image.shape[0] < height else cv2.INTER_AREA
    left = cv2.resize(image, size, interpolation=enlarge)
    panels = [left]
    if heat is not None:
        low, high = span if np.isfinite(span).all() else (float(heat.min()), float(heat.max()))
        scaled = ((heat.cpu().numpy() - low) / max(high - low, 1e-30)).clip(0, 1)
        values = cv2.resize((scaled * 255).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
        colours = cv2.applyColorMap(values, cv2.COLORMAP_INFERNO)[..., ::-1]
        grey = cv2.cvtColor(cv2.cvtColor(left, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        panels.append(cv2.addWeighted(np.ascontiguousarray(colours), 0.65, grey, 0.35, 0))
    if mask is not None and bool(mask.any()):
        small = cv2.resize(mask.numpy().astype(np.uint8), size, interpolation=cv2.INTER_AREA)
        outline, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        panels = [cv2.drawContours(panel.copy(), outline, -1, (0, 255, 0), 1) for panel in panels]
    gap = np.full((height, 4, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
    font = ImageFont.load_default(13)
    width = max(row.shape[1], int(font.getlength(title)) + 8)
    picture = Image.new("RGB", (width, height + 22), "white")
    picture.paste(Image.fromarray(row), (0, 22))
    ImageDraw.Draw(picture).text((4, 3), title, fill="black", font=font)
    return picture
