"""What a run shows on wandb and TensorBoard beyond its losses."""

import sys
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_ad.batch import Batch
from lit_ad.callbacks.evaluation import Evaluation
from lit_ad.callbacks.heatmaps import Heatmaps, Shown

if sys.platform == "linux":
    import resource


class Dashboard(L.Callback):
    """Log speed, learning rate, memory and cores while training, and after a test its metrics, curves and misses.

    It reads what Evaluation measured and Heatmaps drew, so it comes after them in the list of callbacks. A dashboard
    that fails (no network, a full disk) costs a warning, never the run.

    Args:
        misses: Rows of the table of worst misses.
    """

    def __init__(self, misses: int = 16) -> None:
        self.misses = misses

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.images, self.started, self.worked = 0, time.perf_counter(), time.process_time()

    on_train_start = on_train_epoch_start  # a run that resumes within an epoch has no start of it

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images, self.ended = self.images + len(batch), time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        speed = self.images * trainer.world_size / (self.ended - self.started)
        values = {"train/images_per_second": speed}
        for number, optimizer in enumerate(trainer.optimizers):
            values[f"train/lr{number or ''}"] = optimizer.param_groups[0]["lr"]
        values["system/cpu_cores"] = (time.process_time() - self.worked) / (self.ended - self.started)
        if sys.platform == "linux":
            values["system/peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if torch.cuda.is_available():
            values["system/peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        for name, value in values.items():
            pl_module.log(name, value, batch_size=1, sync_dist=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        evaluation = next((c for c in trainer.callbacks if isinstance(c, Evaluation)), None)  # type: ignore[attr-defined]
        heatmaps = next((c for c in trainer.callbacks if isinstance(c, Heatmaps)), None)  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            try:
                if evaluation is not None:
                    show_results(logger, evaluation, float(pl_module.threshold), trainer.global_step)
                if heatmaps is not None:
                    show_misses(logger, heatmaps.shown, self.misses, trainer.global_step)
            except Exception as error:  # whatever a dashboard's client raises
                rank_zero_warn(f"{type(logger).__name__} took no test results ({type(error).__name__}: {error})")


def show_results(logger: Logger, evaluation: Evaluation, threshold: float, step: int) -> None:
    """Metrics of every row, the histogram of scores, and the curves."""
    values = {f"test/{row}/{name}": v for row, metrics in evaluation.results.items() for name, v in metrics.items()}
    logger.log_metrics({name: value for name, value in values.items() if not np.isnan(value)}, step)
    show_picture(logger, "test/scores", histogram(evaluation.scores, threshold), step)
    for name, points in evaluation.curves.items():
        show_picture(logger, f"test/{name}", curve(name, *points), step)


def show_misses(logger: Logger, shown: list[Shown], count: int, step: int) -> None:
    """The images furthest on the wrong side of the threshold, with their heatmaps."""
    worst = sorted(shown, key=lambda one: -one.wrong_by)[:count]
    if not worst:
        return
    if isinstance(logger, WandbLogger):
        import wandb

        rows = [[w.path.stem, w.wrong_by, w.caption, wandb.Image(str(w.path))] for w in worst]
        logger.log_table("test/worst_misses", ["image", "beyond the threshold", "verdict", "heatmap"], rows)
    elif isinstance(logger, TensorBoardLogger):
        for number, one in enumerate(worst):
            pixels = np.asarray(Image.open(one.path))
            logger.experiment.add_image(f"test/worst_misses/{number:02d}", pixels, step, dataformats="HWC")


def show_picture(logger: Logger, key: str, pixels: NDArray[np.uint8], step: int) -> None:
    """(H, W, 3) on a dashboard that takes pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [pixels])
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def histogram(scores: list[tuple[int, float]], threshold: float) -> NDArray[np.uint8]:
    """Scores of nominal and anomalous test images, and the threshold between them."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    values = np.array([score for _, score in scores])
    bins = np.linspace(values.min(), values.max() + 1e-12, 40).tolist()
    for label, name, colour in ((0, "nominal", "tab:green"), (1, "anomalous", "tab:red")):
        axes.hist([score for of, score in scores if of == label], bins, alpha=0.6, label=name, color=colour)
    if not np.isnan(threshold):
        axes.axvline(threshold, color="black", linestyle="--", label="threshold (nominal validation)")
    axes.set(xlabel="image score", ylabel="images")
    axes.legend()
    return rendered(figure)


def curve(name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A curve over the false positive rate."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y)
    axes.set(xlabel="false positive rate", ylabel="overlap" if "pro" in name else "true positive rate", title=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    return rendered(figure)


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """A figure's pixels, (H, W, 3), drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
