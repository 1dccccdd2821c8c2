"""One picture per image: what the network saw, the truth, and where it disagrees with its teacher."""

from typing import Any

import cv2
import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.decision import Decision
from lit_ad.files import atomic_write, run_directory
from lit_ad.pixels import Pixels
from lit_ad.results import picture_name


class Heatmaps(L.Callback):
    """Write RUN/heatmaps/CATEGORY/FOLDER/NAME.png for every tested image, for predicted ones below RUN/predictions.

    The colours span the same range in every picture of a run, fixed by nominal held-out images: the middle of the
    scale is the threshold of anomalous pixels.

    Args:
        enabled: Write pictures at all.
        height: Of the panels, in pixels.
    """

    def __init__(self, enabled: bool = True, height: int = 320) -> None:
        self.enabled, self.height = enabled, height

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer) / "heatmaps"

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer) / "predictions" / "heatmaps"

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.enabled and outputs is not None:
            self._write(pl_module.decision, outputs, batch)

    on_predict_batch_end = on_test_batch_end

    def _write(self, decision: Decision | None, prediction: Prediction, batch: Batch) -> None:
        assert prediction.score is not None
        for i, (sample, score) in enumerate(zip(batch.samples, prediction.score.tolist(), strict=True)):
            verdict = "" if decision is None else decision.verdict(score, sample.category)
            truth = {0: "good", 1: sample.defect}.get(sample.label, "")
            title = f"{sample.image.name}   score {score:.4g}   {verdict}" + (f"   truth: {truth}" if truth else "")
            heat = None if prediction.anomaly_map is None else batch.original_map(prediction, i)
            span = None if decision is None else decision.colour_range(sample.category)
            mask = None if batch.masks is None else batch.masks[i]
            picture = draw(content(batch, i), heat, mask, span, title, self.height)
            name = picture_name(str(sample.image), sample.category, sample.label >= 0, ".png")
            with atomic_write(self.directory / name) as temporary:
                picture.save(temporary, format="PNG")


def content(batch: Batch, i: int) -> Pixels:
    """Image i as the network saw it, without padding: (h, w, 3)."""
    assert batch.pixels is not None
    top, left, bottom, right = batch.boxes[i]
    return batch.pixels[i, :, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()


def draw(
    image: Pixels,
    heat: NDArray[np.float32] | None,
    mask: Tensor | None,
    span: tuple[float, float] | None,
    title: str,
    height: int,
) -> Image.Image:
    """Panels side by side under a title: image with the truth outlined, heatmap over the grey image.

    image (h, w, 3); heat and mask (H0, W0), whose proportions the panels take; span (low, high) of the colours, or
    those of this heat.
    """
    full = tuple(heat.shape) if heat is not None else tuple(mask.shape) if mask is not None else image.shape[:2]
    size = (max(1, round(height * full[1] / full[0])), height)  # cv2's order: width, height
    enlarge = cv2.INTER_LINEAR if image.shape[0] < height else cv2.INTER_AREA
    left = cv2.resize(image, size, interpolation=enlarge)
    panels = [left]
    if heat is not None:
        low, high = span or (float(heat.min()), float(heat.max()))
        scaled = ((heat - low) / max(high - low, 1e-30)).clip(0, 1)
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
