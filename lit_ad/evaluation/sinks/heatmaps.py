"""One picture per image: what the network saw, the truth, and where it disagrees with its teacher."""

from lit_ad.detector.painter import draw
from lit_ad.errors import check_number
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.files import atomic_write
from lit_ad.names import printable

JPEG = {"quality": 95, "subsampling": 0}  # a tenth of a PNG's time; with all of its colours, thin outlines stay sharp


class Heatmaps(Sink):
    """Write RUN/heatmaps/CATEGORY/FOLDER/NAME.jpg for every tested image, for predicted ones below RUN/predictions.

    The colours span the same range in every picture of a run, fixed by nominal held-out images: the middle of the
    scale is the threshold of anomalous pixels. Green outlines the true defect, blue the anomalous pixels. Of
    images more than twice as large as a panel, a third panel shows the hottest place pixel by pixel.

    Args:
        enabled: Write pictures at all.
        height: Of the panels, in pixels.
    """

    stage: Stage

    def __init__(self, enabled: bool = True, height: int = 320) -> None:
        check_number("heatmaps.height", height, least=16, most=8192)
        self.enabled, self.height = enabled, height

    def begin(self, stage: Stage) -> None:
        self.stage = stage

    def image(self, judged: Judged) -> None:
        sample = judged.sample
        if not self.enabled or sample.error:
            return
        kind = {0: "good", 1: sample.defect}.get(sample.label, "")
        title = f"{short(printable(sample.image.name))}   score {judged.score:.4g}   {judged.verdict}"
        title += f"   truth: {printable(kind)}" if kind else ""
        # The picture is of what is looked at.
        heat, truth, marked = (
            None if values is None else judged.looked_at(values)
            for values in (judged.anomaly_map, judged.truth, judged.mask)
        )
        scale = (judged.colour_range, judged.pixel_threshold)
        picture = draw(judged.pixels, heat, truth, marked, *scale, title, self.height)
        with atomic_write(self.stage.picture(sample.image)) as temporary:
            picture.save(temporary, format="JPEG", **JPEG)


def short(name: str) -> str:
    """Return a file's name, without its middle if it is long."""
    return name if len(name) <= 48 else f"{name[:30]}...{name[-15:]}"
