"""The callback that measures a test, and hands every judged image to the sinks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lit_ad.batch import Batch
from lit_ad.detector.decision import Decision
from lit_ad.errors import check_number
from lit_ad.evaluation.doubts import describe_doubts
from lit_ad.evaluation.judged import Judged, judge_images
from lit_ad.evaluation.measurement import Measurement
from lit_ad.evaluation.official_scores import OfficialScores
from lit_ad.evaluation.report.stopwatch import device_name
from lit_ad.evaluation.results import COLUMNS, MEAN, POOLED, SAMPLE_AUROC, Results
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.files import Writers, resolve_path, run_directory
from lit_ad.names import tell
from lit_ad.teachers.weights import fingerprint


class Evaluation(L.Callback):
    """Measures raw scores and maps, and writes RUN/metrics.json and RUN/scores.csv.

    There are metrics of all images together, of each category, and of each defect type with the good images of its
    category. Pixels are compared at the masks' original resolution. Verdicts come from the checkpoint's decision. A
    data set with rules of its own is measured by these too.

    Loggers get the main metrics as test/METRIC. With several categories, test/METRIC is the mean over categories, as
    papers quote it, and test/pooled_METRIC is the metric of all images together.

    Args:
        eval_size: The size at which pixels are compared, for papers that resize: a number, or height and width. None:
            the original size. Verdicts on pixels stay at the original size, because the pixel threshold belongs to
            maps of that size, and a smaller map has lower maxima.
        bootstrap: Number of resamples for 95 % intervals of the image metrics. 0: no intervals.
        sinks: The sinks that get every tested or predicted image, in this order.

    Raises:
        UserError: eval_size or bootstrap is out of its range.
    """

    results: Results | None = None  # results of the latest test

    def __init__(
        self, eval_size: int | tuple[int, int] | None = None, bootstrap: int = 0, sinks: Sequence[Sink] = ()
    ) -> None:
        check_number("evaluation.bootstrap", bootstrap, least=0)
        self.bootstrap, self.sinks = bootstrap, list(sinks)
        self.eval_size = (eval_size, eval_size) if isinstance(eval_size, int) else eval_size
        for side in self.eval_size or ():
            check_number("evaluation.eval_size", side, least=1)
        self.writers = Writers()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Choose the directory of predictions. Raises UserError if it holds others already."""
        if stage == "predict":
            self._claim(trainer, None)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Leave out images that an interrupted prediction with the loaded weights has judged."""
        if trainer.predicting:
            self._claim(trainer, fingerprint(pl_module.state_dict()))

    def _claim(self, trainer: L.Trainer, weights: str | None) -> None:
        """Let the first process choose the directory of predictions, and the images that need not be judged again.

        Args:
            trainer: The trainer of the prediction.
            weights: Fingerprint of the model's weights. None: not known yet.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        home, claims = run_directory(trainer), []
        self.folder = None if data.predict_path is None else resolve_path(data.predict_path)
        if trainer.is_global_zero:
            samples = data.to_predict() if weights else []
            claims = [sink.claim(home, self.folder, samples, weights) for sink in self.sinks]
        claim = next((claim for claim in claims if claim is not None), (home / "predictions", {}))
        self.predictions, self.done = trainer.strategy.broadcast(claim)
        data.already_predicted = frozenset(self.done)

    def _begin(self, trainer: L.Trainer, pl_module: Any, loader: Any, predicting: bool) -> None:
        stage = Stage(
            self.predictions if predicting else run_directory(trainer),
            loader.dataset.samples,
            pl_module.decision,
            type(pl_module).__name__,
            predicting,
            self.folder if predicting else None,
            trainer.global_rank,
            trainer.world_size,
            device_name(trainer),
            trainer.loggers,
            trainer.global_step,
            self.done if predicting else {},
        )
        for sink in self.sinks:
            sink.begin(stage)

    def _show(self, judged: Judged) -> None:
        for sink in self.sinks:
            sink.image(judged)

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._begin(trainer, pl_module, trainer.test_dataloaders, predicting=False)

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._begin(trainer, pl_module, trainer.predict_dataloaders, predicting=True)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for judged in judge_images(outputs, batch, pl_module.decision, pl_module.view):
            self.writers.submit(self._show, judged)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.writers.finish()
        for sink in self.sinks:
            sink.finish(None)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Drop unwritten files, so that nothing is written while a later run reads the files of this one."""
        self.writers.give_up()
        for sink in self.sinks:
            sink.give_up()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer)
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        self.shift = None if source is None else source.shift()
        rules = None if source is None else source.rules()
        all_pixels = self.eval_size is None and pl_module.view.region is None
        official = None if rules is None else OfficialScores(rules, all_pixels)
        self.measurement = Measurement(self.eval_size, self.bootstrap, official)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        images = judge_images(outputs, batch, pl_module.decision, pl_module.view)
        self.measurement.add_scores(images)
        for judged in images:
            self.measurement.add_pixels(judged)
            self.writers.submit(self._show, judged)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.results = self.measurement.compute(pl_module.decision)
        self.results.shift = self.shift
        rows = self.results.rows
        if trainer.ckpt_path:
            file = Path(trainer.ckpt_path).absolute()
            inside = file.is_relative_to(self.directory.absolute())
            self.results.checkpoint = str(file.relative_to(self.directory.absolute()) if inside else file)
        if self.results.official is not None:
            for name, value in self.results.official.last().items():
                if not math.isnan(value):
                    pl_module.log(f"test/official/{name}", value, rank_zero_only=False, batch_size=1)
        logged = {"": rows[MEAN], "pooled_": rows[POOLED]} if MEAN in rows else {"": rows[POOLED]}
        for prefix, row in logged.items():
            for name, value in row.items():
                if name in (*COLUMNS, SAMPLE_AUROC) and not math.isnan(value):
                    pl_module.log(f"test/{prefix}{name}", value, rank_zero_only=False, batch_size=1)
        self.writers.finish()
        if trainer.is_global_zero:
            self.results.save(self.directory / "metrics.json")
            self.results.save_scores(self.directory / "scores.csv")
        for sink in self.sinks:
            sink.finish(self.results)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self.results is not None:
            tell("\n" + self.results.table())
            decision: Decision | None = pl_module.decision
            if doubts := describe_doubts(self.results, {} if decision is None else decision.scores):
                tell("\n" + doubts)
