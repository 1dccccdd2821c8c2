"""The words before the options, RUN and IMAGES, become options."""

from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.lightning_cli.run_words import expand_run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run's directory with empty files; only their names matter here."""
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "export/stfpm.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_run_becomes_its_configuration_and_its_best_checkpoint(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, last = str(home / "checkpoints/best.ckpt"), str(home / "checkpoints/last.ckpt")
    config = ["--config", str(home / "config.yaml")]
    rest = ["--decision.false_alarm", "0.1"]
    assert expand_run("test", [str(home), *rest]) == [*config, "--ckpt_path", best, *rest]
    assert capsys.readouterr().out == f"Taken from {home}: config.yaml and checkpoints/best.ckpt\n"
    assert expand_run("validate", [last]) == [*config, "--ckpt_path", last]
    assert expand_run("test", [str(home), "--ckpt_path", last]) == [*config, "--ckpt_path", last]
    expected = [*config, "--ckpt_path", best, "--data.predict_path", "parts", *rest]
    assert expand_run("predict", [str(home), "parts", *rest]) == expected


def test_the_long_form_and_other_commands_stay_as_they_are(home: Path) -> None:
    for arguments in (["--config", "a.yaml", "--ckpt_path", "b.ckpt"], []):
        assert expand_run("test", arguments) == arguments
    assert expand_run("fit", [str(home)]) == [str(home)]


def test_words_that_name_no_run_are_refused(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UserError, match="expected lit-ad test RUN, then options"):
        expand_run("test", [str(home), "images"])
    with pytest.raises(UserError, match=r"stfpm\.onnx is an exported file, and test needs a run: give the one"):
        expand_run("test", [str(home / "export/stfpm.onnx")])
    with pytest.raises(
        UserError, match=r"decision.folds is for lit-ad fit only: test uses the decision that the training"
    ):
        expand_run("test", [str(home), "--decision.folds=3"])
    with pytest.raises(UserError, match=r"there is no detector .*nowhere"):
        expand_run("test", ["nowhere"])
    alone = tmp_path_factory.mktemp("alone") / "alone.ckpt"
    alone.touch()
    with pytest.raises(UserError, match=r"alone\.ckpt has no config file .*config\.yaml: give --config FILE"):
        expand_run("test", [str(alone)])
    assert expand_run("test", [str(alone), "--config=a.yaml"]) == ["--ckpt_path", str(alone), "--config=a.yaml"]
