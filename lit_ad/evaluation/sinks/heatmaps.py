"""Heatmaps: one picture for each image, with its anomaly map, true defect and anomalous pixels."""

from pathlib import Path

from lit_ad.counts import format_count
from lit_ad.detector.painter import draw
from lit_ad.errors import check_number
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.files import atomic_write
from lit_ad.names import printable, tell

JPEG = {"quality": 95, "subsampling": 0}  # a tenth of a PNG's time; full colour resolution keeps thin outlines sharp


class Heatmaps(Sink):
    """Writes RUN/heatmaps/CATEGORY/FOLDER/NAME.jpg for every tested image; predicted ones go below RUN/predictions.

    Nominal held-out images fix the range of the colours, which is the same in all pictures of a run. The middle of the
    scale is the threshold of anomalous pixels. Green outlines the true defect, blue the anomalous pixels. For an image
    more than twice as large as a panel, a third panel shows the hottest place pixel by pixel.

    Args:
        enabled: Whether to write pictures.
        height: Height of the panels in pixels.

    Raises:
        UserError: The height is out of its range.
    """

    stage: Stage

    def __init__(self, enabled: bool = True, height: int = 320) -> None:
        check_number("heatmaps.height", height, least=16, most=8192)
        self.enabled, self.height = enabled, height

    def begin(self, stage: Stage) -> None:
        self.stage = stage
        without = sum(not stage.picture(Path(image)).is_file() for image in stage.done) if self.enabled else 0
        if without and stage.first:
            tell(f"{format_count(without, 'image')} judged before without heatmaps: they get none")

    def image(self, judged: Judged) -> None:
        sample = judged.sample
        if not self.enabled or sample.error:
            return
        kind = {0: "good", 1: sample.defect}.get(sample.label, "")
        title = f"{shorten(printable(sample.image.name))}   score {judged.score:.4g}   {judged.verdict}"
        title += f"   truth: {printable(kind)}" if kind else ""
        # The picture shows the region of interest only.
        heat, truth, marked = (
            None if values is None else judged.inside_roi(values)
            for values in (judged.anomaly_map, judged.truth, judged.mask)
        )
        scale = (judged.colour_range, judged.pixel_threshold)
        picture = draw(judged.pixels, heat, truth, marked, *scale, title, self.height)
        with atomic_write(self.stage.picture(sample.image)) as temporary:
            picture.save(temporary, format="JPEG", **JPEG)


def shorten(name: str) -> str:
    """Return a file's name; a long one has dots in place of its middle."""
    return name if len(name) <= 48 else f"{name[:30]}...{name[-15:]}"
