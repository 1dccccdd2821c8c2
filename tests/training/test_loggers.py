"""These tests open loggers by name, and handle a logger that fails. test_dashboard.py reads the files of real
loggers."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from lit_ad.training.loggers import configure_logger, open_loggers, wandb_id


class Recording(Logger):
    """A logger that records its calls, and fails in the call that the test names."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[str] = []

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> Any:
        return self.note("experiment")

    def note(self, call: str) -> None:
        if call == self.fails:
            raise OSError(f"no space for {call}")
        self.calls.append(call)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.note("metrics")

    def log_hyperparams(self, params: Any, *args: Any) -> None:
        self.note("hyperparams")


def test_a_logger_that_fails_gets_no_more_calls_and_the_others_go_on() -> None:
    good, bad = Recording(), Recording(fails="metrics")
    loggers = open_loggers([good, bad])
    assert loggers == [good, bad]
    for logger in loggers:
        logger.log_hyperparams({})
    with pytest.warns(UserWarning, match=r"Recording failed and gets no more; .* \(OSError: no space for metrics\)"):
        bad.log_metrics({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a second warning would be an error
        for logger in loggers:
            logger.log_metrics({})
            logger.log_hyperparams({})
    assert bad.calls == ["experiment", "hyperparams"]
    assert good.calls == ["experiment", "hyperparams", "metrics", "hyperparams"]


def test_a_logger_that_cannot_be_opened_is_left_out() -> None:
    with pytest.warns(UserWarning, match=r"Recording is left out \(OSError: no space for experiment\)"):
        assert open_loggers([Recording(fails="experiment")]) == []


def test_a_logger_is_configured_by_its_name(tmp_path: Path) -> None:
    run = tmp_path / "runs/stfpm/one"
    board = configure_logger("tensorboard", run)
    assert board.class_path.endswith("TensorBoardLogger") and board.init_args.save_dir == str(run)
    wandb = configure_logger("wandb", run)
    assert wandb.class_path.endswith("WandbLogger") and wandb.init_args.name == "stfpm/one"
    assert wandb.init_args.id == configure_logger("wandb", run).init_args.id  # a run that goes on has the same id
    assert wandb_id(run) != wandb_id(tmp_path / "other")
