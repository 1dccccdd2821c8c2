"""What `predict` leaves behind: scores.csv and the anomaly maps as float TIFFs."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from PIL import Image

from lit_ad.batch import Batch
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, free_directory, run_directory
from lit_ad.results import gather, picture_names


class Row(NamedTuple):
    """Of scores.csv: an image's path below the folder given, what was said of it, or why it could not be read."""

    path: str
    score: str = ""
    p_value: str = ""
    verdict: str = ""
    threshold: str = ""
    error: str = ""


class Predictions(L.Callback):
    """Write scores.csv (path, score, p_value, verdict, threshold, error) and maps/NAME.tiff to a directory of its own.

    The verdict holds the score against the threshold of the checkpoint's decision; it is empty without one. A map is
    float32 at the image's original size, raw. An image that cannot be read is a row with its error.

    Args:
        maps: Write the maps at all.
        output: The directory. None: RUN/predictions, or with a number behind it if that holds predictions already.
    """

    def __init__(self, maps: bool = True, output: Path | None = None) -> None:
        self.maps, self.output = maps, output
        self.rows: list[tuple[int, Row]] = []  # with the image's place in the list

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raises UserError if `output` holds predictions already."""
        if stage != "predict":
            return
        home = run_directory(trainer)
        if self.output is not None and (self.output / "scores.csv").exists():
            raise UserError(f"{self.output} holds predictions already: give another predictions.output")
        free = self.output or free_directory(home / "predictions", "scores.csv")
        self.directory = Path(trainer.strategy.broadcast(str(free)))

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        loader: Any = trainer.predict_dataloaders
        self.names = picture_names(loader.dataset.samples)
        self.folder: Path | None = trainer.datamodule.predict_path  # type: ignore[attr-defined]
        self.rows = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        decision = pl_module.decision
        for i, (sample, score) in enumerate(zip(batch.samples, outputs.score.tolist(), strict=True)):
            row = Row(self._below(sample.image), f"{score:.6g}", error=sample.error)
            if sample.error:
                row = row._replace(score="")
            elif decision is not None:
                p_value = float(decision.p_value(score, sample.category))
                verdict, threshold = decision.verdict(score, sample.category), decision.threshold(sample.category)
                row = row._replace(p_value=f"{p_value:.6g}", verdict=verdict, threshold=f"{threshold:.6g}")
            self.rows.append((int(batch.index[i]), row))
            if self.maps and outputs.anomaly_map is not None and not sample.error:
                file = self.directory / "maps" / f"{self.names[str(sample.image)]}.tiff"
                with atomic_write(file) as temporary:
                    pixels = Image.fromarray(batch.original_map(outputs, i))
                    pixels.save(temporary, format="TIFF", compression="tiff_adobe_deflate")

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.rows = sorted(gather(self.rows))
        if trainer.is_global_zero:
            file = self.directory / "scores.csv"
            with atomic_write(file) as temporary, temporary.open("w", newline="") as text:
                writer = csv.writer(text)
                writer.writerow(Row._fields)
                writer.writerows(row for _, row in self.rows)

    @property
    def unreadable(self) -> int:
        """How many images could not be read."""
        return sum(bool(row.error) for _, row in self.rows)

    def summary(self) -> list[str]:
        """What to tell: of one image the verdict, of many how many are anomalous."""
        rows = [row for _, row in self.rows]
        anomalous = sum(row.verdict == "anomalous" for row in rows)
        if len(rows) == 1 and not self.unreadable:
            row = rows[0]
            judged = f"{row.verdict} (threshold {row.threshold}, p {row.p_value})" if row.verdict else "no threshold"
            said = [f"{row.path}: score {row.score}, {judged}"]
        else:
            said = [f"{len(rows)} images: {anomalous} anomalous, {self.unreadable} that could not be read"]
        there = [name for name in ("scores.csv", "maps", "heatmaps") if (self.directory / name).exists()]
        return [*said, f"{', '.join(there)} are in {self.directory}"]

    def _below(self, image: Path) -> str:
        """An image's path below the folder that was given, or whole where none was."""
        if self.folder is None:
            return str(image)
        return image.relative_to(self.folder).as_posix() if self.folder.is_dir() else image.name
