"""What `predict` leaves behind: scores.csv and the anomaly maps as float TIFFs."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image

from lit_ad.batch import Batch
from lit_ad.callbacks.evaluation import gathered
from lit_ad.callbacks.output import file_name, original_map, run_dir, verdict, written


class Predictions(L.Callback):
    """Write RUN/predictions/scores.csv (path, score, verdict, threshold) and RUN/predictions/maps/NAME.tiff.

    The verdict holds the score against the threshold that the checkpoint carries; it is empty without one. A map is
    float32 at the image's original size, raw.

    Args:
        maps: Write the maps at all.
    """

    def __init__(self, maps: bool = True) -> None:
        self.maps = maps

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_dir(trainer) / "predictions"
        self.rows: list[tuple[int, str, float, str, float]] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        threshold = float(pl_module.threshold)
        for i, score in enumerate(outputs.score.tolist()):
            self.rows.append((int(batch.index[i]), batch.path[i], score, verdict(score, threshold), threshold))
            if self.maps and outputs.anomaly_map is not None:
                pixels = original_map(outputs, batch, i).cpu().numpy()
                with written(self.directory / "maps" / file_name(batch, i, ".tiff")) as temporary:
                    Image.fromarray(pixels).save(temporary, format="TIFF", compression="tiff_adobe_deflate")

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows = gathered(self.rows)
        if trainer.is_global_zero:
            with written(self.directory / "scores.csv") as temporary, Path(temporary).open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "score", "verdict", "threshold"])
                writer.writerows(row[1:] for row in sorted(rows))
