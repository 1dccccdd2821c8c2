"""What `predict` leaves behind: scores.csv and the anomaly maps as float TIFFs."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image

from lit_ad.batch import Batch
from lit_ad.files import atomic_write, run_directory
from lit_ad.results import gather, picture_name


class Predictions(L.Callback):
    """Write RUN/predictions/scores.csv (path, score, p-value, verdict, threshold) and RUN/predictions/maps/NAME.tiff.

    The verdict holds the score against the threshold of the checkpoint's decision; it is empty without one. A map is
    float32 at the image's original size, raw.

    Args:
        maps: Write the maps at all.
    """

    def __init__(self, maps: bool = True) -> None:
        self.maps = maps

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer) / "predictions"
        self.rows: list[tuple[int, str, float, Any, str, Any]] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        decision = pl_module.decision
        for i, (sample, score) in enumerate(zip(batch.samples, outputs.score.tolist(), strict=True)):
            judged: tuple[Any, str, Any] = ("", "", "")
            if decision is not None:
                judged = (float(decision.p_value(score)), decision.verdict(score), decision.threshold())
            self.rows.append((int(batch.index[i]), str(sample.image), score, *judged))
            if self.maps and outputs.anomaly_map is not None:
                name = picture_name(str(sample.image), sample.category, sample.label >= 0, ".tiff")
                with atomic_write(self.directory / "maps" / name) as temporary:
                    pixels = Image.fromarray(batch.original_map(outputs, i))
                    pixels.save(temporary, format="TIFF", compression="tiff_adobe_deflate")

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows = gather(self.rows)
        if trainer.is_global_zero:
            with (
                atomic_write(self.directory / "scores.csv") as temporary,
                Path(temporary).open("w", newline="") as file,
            ):
                writer = csv.writer(file)
                writer.writerow(["path", "score", "p_value", "verdict", "threshold"])
                writer.writerows(row[1:] for row in sorted(rows))
