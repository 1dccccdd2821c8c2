"""RUN/config.yaml repeats the run: it names neither the run's directory nor the checkpoint that it resumed from."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lit_ad.lightning_cli.parser import Parser
from lit_ad.lightning_cli.save_config import SaveConfig


@pytest.fixture
def parser() -> Parser:
    parser = Parser()
    for name in ("trainer.default_root_dir", "trainer.logger", "checkpoint.dirpath", "ckpt_path", "note"):
        parser.add_argument(f"--{name}", type=Any, default=None)
    parser.add_argument("--dashboards", type=list[str], default=[])
    return parser


def config_of(home: Path, **more: Any) -> Namespace:
    named = {"trainer": Namespace(default_root_dir=str(home), logger=["one"]), "ckpt_path": "old.ckpt", "note": None}
    return Namespace(**{**named, "checkpoint": Namespace(dirpath=str(home / "checkpoints")), "dashboards": [], **more})


@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize(("dashboards", "logger"), [([], ["one"]), (["tensorboard"], None)])
def test_what_a_fit_saves(
    dashboards: list[str],
    logger: list[str] | None,
    parser: Parser,
    tmp_path: Path,
    quiet_trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "all")  # not the first alone
    given = config_of(tmp_path, dashboards=dashboards, note="Riß")
    SaveConfig(parser, given).save_config(quiet_trainer(tmp_path), BoringModel(), "fit")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"] == {"default_root_dir": None, "logger": logger}  # dashboards are made from their names
    assert saved["checkpoint"] == {"dirpath": None}
    assert "ckpt_path" not in saved  # it would overrule one that is typed before --config
    assert saved["note"] == "Riß"
    assert given.ckpt_path == "old.ckpt" and given.trainer.default_root_dir == str(tmp_path)  # of this run: as it was


def test_a_test_leaves_the_configuration_of_its_training(parser: Parser, tmp_path: Path, quiet_trainer: Any) -> None:
    (tmp_path / "config.yaml").write_text("of: the training\n", encoding="utf-8")
    SaveConfig(parser, config_of(tmp_path)).save_config(quiet_trainer(tmp_path), BoringModel(), "test")
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "of: the training\n"


def test_a_test_in_a_directory_of_its_own_has_its_own(parser: Parser, tmp_path: Path, quiet_trainer: Any) -> None:
    SaveConfig(parser, config_of(tmp_path, note="of the test")).save_config(
        quiet_trainer(tmp_path), BoringModel(), "test"
    )
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["note"] == "of the test"


def test_loggers_get_the_configuration(parser: Parser, tmp_path: Path, quiet_trainer: Any) -> None:
    trainer = quiet_trainer(tmp_path, logger=(logger := CSVLogger(tmp_path / "logs")))
    SaveConfig(parser, config_of(tmp_path, note="for the logger")).save_config(trainer, BoringModel(), "fit")
    logger.save()
    (file,) = (tmp_path / "logs").rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["note"] == "for the logger"
