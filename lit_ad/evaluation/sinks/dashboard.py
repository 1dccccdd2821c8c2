"""Show a test on wandb and TensorBoard: metrics, curves and worst misses."""

from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import check_number
from lit_ad.evaluation.results import COLUMNS, MEAN, POOLED, ImageResult, Results
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.names import printable


class Dashboard(Sink):
    """Shows a test's metrics, curves and worst misses on the run's loggers.

    If a dashboard fails (no internet access, a full disk), a warning is printed and the run goes on.

    Args:
        misses: Number of rows in the table of worst misses.

    Raises:
        UserError: The number is below 0.
    """

    stage: Stage

    def __init__(self, misses: int = 16) -> None:
        check_number("dashboard.misses", misses, least=0)
        self.misses = misses

    def begin(self, stage: Stage) -> None:
        self.stage = stage

    def finish(self, results: Results | None) -> None:
        if results is None or not self.stage.first:
            return
        misses = [(miss, self.stage.picture(miss.path)) for miss in results.worst_wrong_verdicts(self.misses)]
        for logger in self.stage.loggers:
            try:
                _show_results(logger, results, self.stage.step)
                show_misses(logger, misses, self.stage.step)
            except Exception as error:  # a dashboard's client may raise anything
                rank_zero_warn(f"{type(logger).__name__} could not show the test ({type(error).__name__}: {error})")


def show_config(logger: Logger, text: str) -> None:
    """Show the run's configuration, as YAML, on TensorBoard. wandb shows it as hyperparameters already."""
    if isinstance(logger, TensorBoardLogger):
        _show_text(logger, "config", text)


def _show_text(logger: TensorBoardLogger, name: str, text: str) -> None:
    """Show a text unchanged; TensorBoard reads Markdown, so it is indented."""
    logger.experiment.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()))


def _show_results(logger: Logger, results: Results, step: int) -> None:
    """Show the metrics of every row, the histogram of scores, and the curves.

    TensorBoard would show each value as a card with one point. Instead it gets the table as text, and the metrics in
    COLUMNS for its HPARAMS page, which compares runs.
    """
    if isinstance(logger, TensorBoardLogger):
        headline = results.rows.get(MEAN, results.rows[POOLED])
        quoted = {f"test/{name}": headline[name] for name in COLUMNS if not np.isnan(headline.get(name, np.nan))}
        logger.log_hyperparams(logger.hparams, quoted)
        _show_text(logger, "test/table", results.table())
    else:
        rows = {make_row_key(row): metrics for row, metrics in results.rows.items()}
        values = {f"{row}/{name}": value for row, metrics in rows.items() for name, value in metrics.items()}
        logger.log_metrics({name: value for name, value in values.items() if not np.isnan(value)}, step)
    _show_picture(logger, "test/scores", draw_histogram(results), step)
    for name, points in results.curves.items():
        _show_picture(logger, f"test/{name}", draw_curve(name, *points, results.rows[POOLED]), step)


def make_row_key(row: str) -> str:
    """Return a row's key on a dashboard, such as test/mean, test/category/bottle or test/defect/bottle/crack."""
    row = printable(row)
    if row in (POOLED, MEAN):
        return f"test/{row}"
    return f"test/category/{row[:-1]}" if row.endswith("/") else f"test/defect/{row}"


def show_misses(logger: Logger, misses: list[tuple[ImageResult, Path]], step: int) -> None:
    """Show the images with a wrong verdict, of all processes, with their heatmaps; the worst first."""
    shown = [(miss, picture) for miss, picture in misses if picture.is_file()]  # another machine's may lie elsewhere
    if not shown:
        return
    if isinstance(logger, WandbLogger):
        import wandb

        rows = [[printable(miss.path), miss.wrong_by, miss.score, wandb.Image(str(picture))] for miss, picture in shown]
        logger.log_table("test/worst_misses", ["image", "beyond the threshold", "score", "heatmap"], rows)
    elif isinstance(logger, TensorBoardLogger):
        for number, (_, picture) in enumerate(shown):
            pixels = np.asarray(Image.open(picture))
            logger.experiment.add_image(f"test/worst_misses/{number:02d}", pixels, step, dataformats="HWC")


def _show_picture(logger: Logger, key: str, pixels: NDArray[np.uint8], step: int) -> None:
    """Show a picture (H, W, 3), if the dashboard takes pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [pixels])
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def draw_histogram(results: Results) -> NDArray[np.uint8]:
    """Draw the scores of nominal and anomalous test images, and the threshold: (H, W, 3)."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    values = np.array([image.score for image in results.images])
    bins = np.linspace(values.min(), values.max() + 1e-12, 40).tolist()
    for label, name, colour in ((0, "nominal", "tab:green"), (1, "anomalous", "tab:red")):
        axes.hist(
            [image.score for image in results.images if image.label == label], bins, alpha=0.6, label=name, color=colour
        )
    if results.threshold is not None:
        origin = "set by hand" if results.by_hand else "nominal held-out images"
        axes.axvline(results.threshold, color="black", linestyle="--", label=f"threshold ({origin})")
    axes.set(xlabel="image score", ylabel="images")
    axes.legend()
    return render(figure)


_AREAS = {  # curve -> its title, and the metric that is its area
    "image_roc": ("ROC curve of images, area {:.4f}", "image_auroc"),
    "pixel_roc": ("ROC curve of pixels, area {:.4f}", "pixel_auroc"),
    "pro": ("PRO curve, area up to 0.3 is {:.4f}", "aupro_30"),
    "pimo": ("PIMO curve, mean from 1e-5 to 1e-4 is {:.4f}", "aupimo"),
    "instances": ("Defects found by their size, {:.4f} of all", "instance_recall"),
}
_AXES = {  # curve -> titles of x and y, if they are not those of a ROC curve
    "pro": ("false positive rate", "overlap"),
    "pimo": ("false positive rate of nominal images", "overlap, mean over images"),
    "instances": ("pixels of a defect, at most", "share that is found"),
}


def draw_curve(
    name: str, x: NDArray[np.float64], y: NDArray[np.float64], metrics: dict[str, float]
) -> NDArray[np.uint8]:
    """Draw a curve, with its area from the metrics in the title: (H, W, 3)."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y)
    across, up = _AXES.get(name, ("false positive rate", "true positive rate"))
    axes.set(xlabel=across, ylabel=up, ylim=(0, 1.01), title=make_curve_title(name, metrics))
    if name in ("pimo", "instances"):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    return render(figure)


def make_curve_title(name: str, metrics: dict[str, float]) -> str:
    """Return a curve's title, with the area under the curve."""
    title, area = _AREAS[name]
    return title.format(metrics[area])


def render(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure without a display, and return its pixels (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
