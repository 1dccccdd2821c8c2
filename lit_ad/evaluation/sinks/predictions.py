"""The files of `predict`: scores.csv, anomaly maps as float TIFFs, and regions."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TextIO

from PIL import Image

from lit_ad.annotations import Format, as_text, list_findings, to_coco, to_json, to_labelme, write_table
from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.distributed import gather
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.results import Results
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.evaluation.sinks.unfinished import (
    DECISION,
    PARTS,
    UNFINISHED,
    choose_directory,
    format_line,
    keep_decision,
    read_part,
)
from lit_ad.files import atomic_write, explain_write_errors, resolve_path
from lit_ad.names import open_table, printable, tell

_REGIONS = {"csv": "regions.csv", "json": "regions.json", "coco": "coco.json"}  # format -> file of all images


class Row(NamedTuple):
    """A row of scores.csv: an image's path below the given folder, and its verdict or error."""

    path: str
    score: str = ""
    p_value: str = ""
    verdict: str = ""
    threshold: str = ""
    error: str = ""


class Predictions(Sink):
    """Writes scores.csv (path, score, p_value, verdict, threshold, error) and maps/NAME.tiff to a directory of its own.

    The verdict compares the score with the threshold of the checkpoint's decision; it is empty without a decision. In a
    model of several categories, an image's category is its first folder below the given one. If the model has no such
    category, the threshold of all categories together decides. A map is raw float32 at the image's original size. An
    image that cannot be read, or whose score or map is not finite, has a row with its error.

    Scores are written with each batch. After an interruption, the same command judges only the images that are left,
    and those with an error.

    Args:
        maps: Whether to write the maps.
        regions: Formats for the regions above the pixel threshold, an image's highest peak first. csv: regions.csv, a
            line for each region. json: regions.json, with outlines too. coco: coco.json, as COCO's annotations.
            labelme: labelme/NAME.json for each image.
        output: The directory to write. None: RUN/predictions, with a number if that holds predictions already.
    """

    stage: Stage

    def __init__(self, maps: bool = True, output: Path | None = None, regions: tuple[Format, ...] = ("csv",)) -> None:
        self.maps, self.regions = maps, regions
        self.output = None if output is None else resolve_path(output)
        self.rows: list[Row] = []  # in the order of the images, filled at the end
        self.lines: TextIO | None = None
        self.lock = Lock()

    def claim(
        self, home: Path, folder: Path | None, samples: Sequence[Sample], weights: str | None
    ) -> tuple[Path, dict[str, float]]:
        """Choose the directory to write, and find the scores that an interrupted run with the same weights left there.

        Args:
            home: The run's directory.
            folder: The folder of the images.
            samples: The images.
            weights: Fingerprint of the model's weights. None: not known yet.

        Returns:
            The directory, and the scores of the images that need not be judged again.

        Raises:
            UserError: `output` holds finished predictions, or those of another run.
        """
        images = None if folder is None else str(folder.absolute())
        about = {"weights": weights, "images": images, "regions": list(self.regions), "maps": self.maps}
        directory = choose_directory(home / "predictions", self.output, about)
        if weights is None:
            return directory, {}
        done = self._resume(Stage(directory, samples, None, "", folder=folder))
        with atomic_write(directory / UNFINISHED) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")
        return directory, done

    def begin(self, stage: Stage) -> None:
        """Open this process's part. Raises UserError if the directory cannot be written, or if another decision made
        the regions of the images that are done."""
        if not stage.predicting:
            return
        self.stage = stage
        keep_decision(stage.directory, stage.decision, bool(stage.done), stage.first)
        self.scored: dict[int, tuple[float, str]] = {}  # index of an image -> its score and error
        self.part = stage.directory / PARTS.replace("*", str(stage.rank))
        with explain_write_errors(self.part):
            stage.directory.mkdir(parents=True, exist_ok=True)
            self.lines = self.part.open("a", encoding="utf-8")

    def image(self, judged: Judged) -> None:
        if self.lines is None:  # a test
            return
        sample = judged.sample
        if self.maps and judged.anomaly_map is not None and not sample.error:
            with atomic_write(
                self._file(self.stage, "maps", sample, ".tiff")
            ) as temporary:  # uncompressed: deflate hardly shrinks a map
                Image.fromarray(judged.anomaly_map).save(temporary, format="TIFF")
        findings = None
        if self.regions and judged.mask is not None and not sample.error:
            outlined = any(name != "csv" for name in self.regions)  # a table has no outlines
            findings = list_findings(judged.size, judged.regions, judged.mask, outlined)
        if "labelme" in self.regions and findings is not None:
            with atomic_write(self._file(self.stage, "labelme", sample, ".json")) as temporary:
                temporary.write_text(as_text(to_labelme(str(sample.image.absolute()), findings)), encoding="utf-8")
        with self.lock, explain_write_errors(self.part):  # last, so that an image with a line has all of its files
            self.scored[judged.index] = (judged.score, sample.error)
            self.lines.write(format_line(_path_below(self.stage, sample.image), judged.score, sample.error, findings))
            self.lines.flush()

    def finish(self, results: Results | None) -> None:
        if self.lines is None:
            return
        self.give_up()
        stage, decision = self.stage, self.stage.decision
        places = {str(sample.image): i for i, sample in enumerate(stage.samples)}
        scored = {places[image]: (score, "") for image, score in stage.done.items()}
        scored |= dict(gather(list(self.scored.items())))
        self.rows = [self._row(stage.samples[i], *values, decision) for i, values in sorted(scored.items())]
        self.known = [] if decision is None else list(decision.scores)
        self.unknown = Counter(sample.category for sample in stage.samples if sample.category not in self.known)
        if stage.first:
            with atomic_write(stage.directory / "scores.csv") as temporary, open_table(temporary) as text:
                writer = csv.writer(text)
                writer.writerow(Row._fields)
                writer.writerows(self.rows)
            if self.regions and decision is not None and decision.pixel_threshold() is not None:
                self._write_regions()
            unfinished = (stage.directory / name for name in (UNFINISHED, DECISION))
            for file in (*stage.directory.glob(PARTS), *unfinished):
                file.unlink(missing_ok=True)

    def _write_regions(self) -> None:
        """Write the files of regions of all judged images, in the order of the images."""
        directory = self.stage.directory
        parts = {line.path: line.findings for part in directory.glob(PARTS) for line in read_part(part)}
        images = {row.path: findings for row in self.rows if (findings := parts[row.path]) is not None}
        for name in self.regions:
            if name == "csv":
                with atomic_write(directory / _REGIONS[name]) as temporary, open_table(temporary) as text:
                    write_table(text, images)
            elif name != "labelme":
                values = to_json(images) if name == "json" else to_coco(images)
                with atomic_write(directory / _REGIONS[name]) as temporary:
                    temporary.write_text(as_text(values), encoding="utf-8")

    def give_up(self) -> None:
        """Close this process's part. A later run resumes from it."""
        if self.lines is not None:
            with explain_write_errors(self.part):
                self.lines.close()
            self.lines = None

    def _row(self, sample: Sample, score: float, error: str, decision: Decision | None) -> Row:
        """Return the row of an image in scores.csv."""
        row = Row(_path_below(self.stage, sample.image), "" if error else f"{score:.6g}", error=error)
        if error or decision is None:
            return row
        p_value, threshold = float(decision.p_value(score, sample.category)), decision.threshold(sample.category)
        verdict = decision.verdict(score, sample.category)
        return row._replace(p_value=f"{p_value:.6g}", verdict=verdict, threshold=f"{threshold:.6g}")

    def _resume(self, stage: Stage) -> dict[str, float]:
        """Return the scores of an interrupted run, by image, and join its parts.

        An image without all of its files has no score, and is judged again.
        """
        directory, samples = stage.directory, stage.samples
        parts = sorted(directory.glob(PARTS))
        judged = {line.path: line for part in parts for line in read_part(part) if not line.error}
        pictures = (directory / "heatmaps").is_dir()
        done = {}
        for sample in samples:
            path = _path_below(stage, sample.image)
            missing = (pictures and not stage.picture(sample.image).is_file()) or any(
                (directory / folder).is_dir() and not self._file(stage, folder, sample, suffix).is_file()
                for folder, suffix in (("maps", ".tiff"), ("labelme", ".json"))
            )
            if path in judged and not missing:
                done[str(sample.image)] = judged[path].score
        if parts:
            with atomic_write(directory / PARTS.replace("*", "earlier")) as temporary:
                lines = [format_line(*judged[_path_below(stage, Path(image))]) for image in done]
                temporary.write_text("".join(lines), encoding="utf-8")
                for part in parts:
                    part.unlink()
            tell(f"Resuming in {directory}: {len(done)} of {format_count(len(samples), 'image')} are done already")
        return done

    @property
    def failed(self) -> int:
        """The number of images that have an error in place of a verdict."""
        return sum(bool(row.error) for row in self.rows)

    def summary(self) -> list[str]:
        """Return lines to print: the verdict of a single image, or the number of anomalous images; and the files."""
        anomalous = sum(row.verdict == "anomalous" for row in self.rows)
        if len(self.rows) == 1 and not self.failed:
            row = self.rows[0]
            judged = f"{row.verdict} (threshold {row.threshold}, p {row.p_value})" if row.verdict else "no threshold"
            lines = [f"{printable(row.path)}: score {row.score}, {judged}"]
        else:
            failed = f", {self.failed} not judged (see the column error of scores.csv)" if self.failed else ""
            verdicts = f"{anomalous} anomalous" if self.stage.decision else "no verdicts without a threshold"
            lines = [f"{format_count(len(self.rows), 'image')}: {verdicts}{failed}"]
        if len(self.known) > 1 and self.unknown:
            number, few = sum(self.unknown.values()), ", ".join(name or "." for name in list(self.unknown)[:3])
            lines.append(
                f"{number} of them judged by the threshold of all categories together, because this model has no "
                f"threshold for their folder ({few}{', ...' if len(self.unknown) > 3 else ''}), but for "
                f"{', '.join(self.known)}"
            )
        files = [
            name
            for name in ("scores.csv", *_REGIONS.values(), "maps", "heatmaps", "labelme")
            if (self.stage.directory / name).exists()
        ]
        return [*lines, f"{', '.join(files)} {'are' if len(files) > 1 else 'is'} in {self.stage.directory}"]

    @staticmethod
    def _file(stage: Stage, folder: str, sample: Sample, suffix: str) -> Path:
        return stage.directory / folder / f"{stage.names[str(sample.image)]}{suffix}"


def _path_below(stage: Stage, image: Path) -> str:
    """Return an image's path below the given folder, or its complete path without one."""
    if stage.folder is None:
        return str(image)
    return image.relative_to(stage.folder).as_posix() if stage.folder.is_dir() else image.name
