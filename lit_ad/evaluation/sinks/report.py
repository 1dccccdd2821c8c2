"""Write a test's page, and the files that it needs beside the results: thumbnails, and a record of time and memory."""

from pathlib import Path
from threading import Lock
from zipfile import ZipFile, ZipInfo

from lightning.pytorch.utilities import rank_zero_warn

from lit_ad.counts import format_count
from lit_ad.detector.painter import (
    FOUND,
    TRUTH,
    colour_heat,
    draw_outlines,
    outline,
    resize_by_maximum,
    resize_heat,
    resize_image,
)
from lit_ad.distributed import gather
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.report.page import PAGE, write_page
from lit_ad.evaluation.report.record import Record
from lit_ad.evaluation.report.stopwatch import Stopwatch
from lit_ad.evaluation.report.thumbnails import (
    BYTES,
    THUMBNAILS,
    compute_thumbnail_size,
    encode_jpeg,
    encode_outline,
    join_archives,
)
from lit_ad.evaluation.results import Results
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.files import explain_write_errors

ROOM = "make room, or give another trainer.default_root_dir"


class Report(Sink):
    """Writes RUN/report.html after a test, and RUN/thumbnails.zip and RUN/record.json, from which `lit-ad report` makes
    pages later."""

    part: ZipFile | None = None  # this process's thumbnails

    def begin(self, stage: Stage) -> None:
        """Start the clock, and open this process's thumbnails. Raises UserError if the directory cannot be written."""
        if stage.predicting:
            return
        self.stage, self.watch, self.lock = stage, Stopwatch(stage.world_size, stage.device), Lock()
        self.paths: dict[int, str] = {}  # index of each image of this process in the split -> its path
        with explain_write_errors(stage.directory, "give another trainer.default_root_dir"):
            stage.directory.mkdir(parents=True, exist_ok=True)
            self.part = ZipFile(stage.directory / f".{THUMBNAILS}.{stage.rank}.part", "w")

    def image(self, judged: Judged) -> None:
        if self.part is None:
            return
        pictures = make_thumbnails(judged)
        with self.lock, explain_write_errors(self.stage.directory, ROOM):  # a ZipFile writes one entry at a time
            self.paths[judged.index] = str(judged.sample.image)
            for kind, data in pictures.items():
                self.part.writestr(ZipInfo(f"{judged.index}.{kind}"), data)

    def finish(self, results: Results | None) -> None:
        if self.part is None or results is None:
            return
        directory, decision = self.stage.directory, self.stage.decision
        with explain_write_errors(directory, ROOM):
            self.part.close()
        took = self.watch.read(len(self.paths))
        paths = dict(gather(list(self.paths.items())))
        parts = [Path(part) for part in gather([str(self.part.filename)])]
        self.part = None
        if not self.stage.first:
            return
        parts = [part for part in parts if part.is_file()]  # those of other machines may lie on other disks
        left_out = join_archives(parts, paths, directory / THUMBNAILS)
        for part in parts:
            part.unlink()
        if left_out:
            rank_zero_warn(
                f"{format_count(len(left_out), 'image has', 'images have')} no picture in {PAGE}, because other "
                f"machines judged them and do not share {directory}"
            )
        earlier = Record.load(directory)
        held_out = {} if decision is None else {name: held.tolist() for name, held in decision.scores.items()}
        training = None if earlier is None else earlier.training
        Record(self.stage.method, training, took, held_out).save(directory)
        write_page([directory], directory / PAGE)

    def give_up(self) -> None:
        """Remove this process's thumbnails."""
        if self.part is not None:
            self.part.close()
            Path(str(self.part.filename)).unlink(missing_ok=True)
            self.part = None


def make_thumbnails(judged: Judged) -> dict[str, bytes]:
    """Return the encoded pictures of an image by their kind.

    The kinds are "image"; "truth", the outline of the true defect, if there is one; and "heat", the map in the colours
    of Heatmaps with the anomalous pixels outlined, if there is a map. All have the image's proportions, so that they
    can lie over one another.
    """
    size = compute_thumbnail_size(judged.size)
    pictures = {"image": encode_jpeg(resize_image(judged.pixels, size), BYTES["image"])}
    if judged.truth is not None and judged.truth.any():
        pictures["truth"] = encode_outline(outline(resize_by_maximum(judged.inside_roi(judged.truth), size)), TRUTH)
    if judged.anomaly_map is None:
        return pictures
    heat = resize_heat(judged.inside_roi(judged.anomaly_map), size)
    low, high = judged.colour_range or (float(heat.min()), float(heat.max()))
    panel = colour_heat(((heat - low) / max(high - low, 1e-30)).clip(0, 1))
    if judged.mask is not None:
        panel = draw_outlines(panel, [(outline(resize_by_maximum(judged.inside_roi(judged.mask), size)), FOUND)])
    pictures["heat"] = encode_jpeg(panel, BYTES["heat"])
    return pictures
