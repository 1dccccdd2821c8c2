"""What `predict` leaves behind: scores.csv and the anomaly maps as float TIFFs."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import lightning as L
from PIL import Image

from lit_ad.batch import Batch, Sample
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement
from lit_ad.distributed import gather
from lit_ad.errors import UserError
from lit_ad.evaluation.results import picture_names
from lit_ad.files import Writers, atomic_write, run_directory
from lit_ad.image.pixels import Size
from lit_ad.image.roi import Roi
from lit_ad.teachers.weights import fingerprint

PICTURE = ".jpg"  # of heatmaps/
UNFINISHED = "unfinished.json"  # what the scores in PARTS are of; gone at the end, as they are
PARTS = "scores.*.part"  # of each process: a line (path, score, error) for every image so far


class Row(NamedTuple):
    """Of scores.csv: an image's path below the folder given, its verdict, or why it has none."""

    path: str
    score: str = ""
    p_value: str = ""
    verdict: str = ""
    threshold: str = ""
    error: str = ""


class Predictions(L.Callback):
    """Write scores.csv (path, score, p_value, verdict, threshold, error) and maps/NAME.tiff to a directory of its own.

    The verdict holds the score against the threshold of the checkpoint's decision; it is empty without one. Of several
    categories, the threshold is that of the first folder below the one given, or of all together. A map is
    float32 at the image's original size, raw. An image that cannot be read, or whose score or map is not finite, is a
    row with its error.

    Scores are on disk with each batch: after an interruption, the same command looks only at the images that are left,
    and at those with an error.

    Args:
        maps: Write the maps at all.
        output: The directory. None: RUN/predictions, or with a number behind it if that holds predictions already.
    """

    def __init__(self, maps: bool = True, output: Path | None = None) -> None:
        self.maps, self.output = maps, output
        self.rows: list[Row] = []  # in the images' order, once all are known
        self.writers = Writers()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raises UserError if `output` holds predictions already."""
        if stage == "predict":
            self._begin(trainer, None)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Now that the model is known, find what an interrupted run of it has left. Raises UserError as `setup`."""
        if trainer.predicting:
            self._begin(trainer, fingerprint(pl_module.state_dict()))

    def _begin(self, trainer: L.Trainer, weights: str | None) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.folder: Path | None = data.predict_path
        home, done = run_directory(trainer), {}
        about = {"weights": weights, "images": None if self.folder is None else str(self.folder.absolute())}
        if trainer.is_global_zero:
            self.directory = place(home / "predictions", self.output, about)
            if weights is not None:
                done = self._resume(data.to_predict())
                with atomic_write(self.directory / UNFINISHED) as temporary:
                    temporary.write_text(json.dumps(about))
        self.directory, self.done = trainer.strategy.broadcast((getattr(self, "directory", home), done))
        data.leave_out(set(self.done))

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        loader: Any = trainer.predict_dataloaders
        self.samples: list[Sample] = loader.dataset.samples
        self.names = picture_names(self.samples)
        self.found: dict[int, tuple[float, str]] = {}  # an image's place -> score and error
        self.part = self.directory / PARTS.replace("*", str(trainer.global_rank))
        with writing(self.part):
            self.directory.mkdir(parents=True, exist_ok=True)
            self.lines: TextIO = self.part.open("a", newline="")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        with writing(self.part):
            for i, (sample, judgement) in enumerate(zip(batch.samples, outputs, strict=True)):
                self.found[int(batch.index[i])] = (judgement.score, sample.error)
                csv.writer(self.lines).writerow((self._below(sample.image), repr(judgement.score), sample.error))
                if self.maps and judgement.seen is not None and not sample.error:
                    self.writers.submit(self._write_map, judgement, sample, batch.sizes[i], pl_module.view.region)
            self.lines.flush()

    def _write_map(self, judgement: Judgement, sample: Sample, size: Size, roi: Roi | None) -> None:
        with atomic_write(self._map_file(sample)) as temporary:  # deflate takes long, and hardly shrinks it
            Image.fromarray(judgement.original_map(size, roi)).save(temporary, format="TIFF")

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.writers.finish()
        with writing(self.part):
            self.lines.close()
        places = {str(sample.image): i for i, sample in enumerate(self.samples)}
        found = {places[image]: (score, "") for image, score in self.done.items()}
        found |= dict(gather(list(self.found.items())))
        self.rows = [self._row(self.samples[i], *said, pl_module.decision) for i, said in sorted(found.items())]
        self.known = [] if pl_module.decision is None else list(pl_module.decision.scores)
        self.unknown = Counter(sample.category for sample in self.samples if sample.category not in self.known)
        if trainer.is_global_zero:
            with atomic_write(self.directory / "scores.csv") as temporary, temporary.open("w", newline="") as text:
                writer = csv.writer(text)
                writer.writerow(Row._fields)
                writer.writerows(self.rows)
            for file in (*self.directory.glob(PARTS), self.directory / UNFINISHED):
                file.unlink(missing_ok=True)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Nothing of this run is written once another one looks for what it has left."""
        self.writers.give_up()

    def _row(self, sample: Sample, score: float, error: str, decision: Decision | None) -> Row:
        row = Row(self._below(sample.image), "" if error else f"{score:.6g}", error=error)
        if error or decision is None:
            return row
        p_value, threshold = float(decision.p_value(score, sample.category)), decision.threshold(sample.category)
        verdict = decision.verdict(score, sample.category)
        return row._replace(p_value=f"{p_value:.6g}", verdict=verdict, threshold=f"{threshold:.6g}")

    def _resume(self, samples: list[Sample]) -> dict[str, float]:
        """The scores that an interrupted run left, by image, in one part; its files are all there."""
        lines = [line for part in sorted(self.directory.glob(PARTS)) for line in whole_lines(part)]
        scores = {path: float(score) for path, score, error in csv.reader(lines) if not error}
        self.names = picture_names(samples)
        pictures = (self.directory / "heatmaps").is_dir()
        done = {}
        for sample in samples:
            path, name = self._below(sample.image), self.names[str(sample.image)]
            missing = (pictures and not (self.directory / "heatmaps" / f"{name}{PICTURE}").is_file()) or (
                (self.directory / "maps").is_dir() and not self._map_file(sample).is_file()
            )
            if path in scores and not missing:
                done[str(sample.image)] = scores[path]
        if lines:
            with atomic_write(self.directory / PARTS.replace("*", "earlier")) as temporary:
                with temporary.open("w", newline="") as text:
                    csv.writer(text).writerows((self._below(Path(i)), repr(score), "") for i, score in done.items())
                for part in self.directory.glob(PARTS):
                    part.unlink()
            print(f"Going on in {self.directory}: {len(done)} of {len(samples)} images were looked at before")
        return done

    @property
    def failed(self) -> int:
        """How many images have an error in place of a verdict."""
        return sum(bool(row.error) for row in self.rows)

    def summary(self) -> list[str]:
        """What to tell: of one image the verdict, of many how many are anomalous."""
        anomalous = sum(row.verdict == "anomalous" for row in self.rows)
        if len(self.rows) == 1 and not self.failed:
            row = self.rows[0]
            judged = f"{row.verdict} (threshold {row.threshold}, p {row.p_value})" if row.verdict else "no threshold"
            said = [f"{row.path}: score {row.score}, {judged}"]
        else:
            said = [f"{len(self.rows)} images: {anomalous} anomalous, {self.failed} that could not be judged"]
        if len(self.known) > 1 and self.unknown:
            number, few = sum(self.unknown.values()), ", ".join(name or "." for name in list(self.unknown)[:3])
            said.append(
                f"{number} of them judged by all categories together, for their folder ({few}"
                f"{', ...' if len(self.unknown) > 3 else ''}) is none of this model's ({', '.join(self.known)})"
            )
        there = [name for name in ("scores.csv", "maps", "heatmaps") if (self.directory / name).exists()]
        return [*said, f"{', '.join(there)} are in {self.directory}"]

    def _map_file(self, sample: Sample) -> Path:
        return self.directory / "maps" / f"{self.names[str(sample.image)]}.tiff"

    def _below(self, image: Path) -> str:
        """An image's path below the folder that was given, or whole where none was."""
        if self.folder is None:
            return str(image)
        return image.relative_to(self.folder).as_posix() if self.folder.is_dir() else image.name


def place(wanted: Path, output: Path | None, about: dict[str, str | None]) -> Path:
    """The directory to write to: that of an interrupted run of the same weights on the same images, or a new one.

    Raises UserError if `output` has predictions, finished or of another run.
    """
    number = 1
    while True:
        home = output or (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}"))
        begun, finished = home / UNFINISHED, (home / "scores.csv").exists()
        if not finished and (not begun.exists() or json.loads(begun.read_text()) == about):
            return home
        if output is not None and (finished or about["weights"] is not None):  # or it is not known yet which
            what = "predictions already" if finished else "unfinished predictions of another model, or of other images"
            raise UserError(f"{home} holds {what}: give another predictions.output")
        if output is not None:
            return home
        number += 1


def whole_lines(part: Path) -> list[str]:
    """The lines that were written to their end."""
    return [line for line in part.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Raises UserError with the file's name where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {file}: {error}") from error
