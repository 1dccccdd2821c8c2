"""The line that a user reads about a wrong key or value on the command line or in a config file."""

from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lit_ad.commands.benchmark import benchmark
from lit_ad.commands.main import find_user_error
from lit_ad.commands.signature import call
from lit_ad.errors import UserError
from lit_ad.lightning_cli.cli import main as run
from lit_ad.lightning_cli.messages import explain_binary_file, explain_error

CONFIGS = Path(__file__).parents[2] / "configs"


def message_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return the message of a wrong command line; nothing is trained."""
    monkeypatch.setattr("sys.argv", ["lit-ad", *words])
    with pytest.raises((UserError, ValueError)) as raised:
        run(list(words[1:]))
    return str(find_user_error(raised.value))


DEMO = ("fit", "--config", str(CONFIGS / "demo.yaml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "data.source and model are missing: give --config FILE, such as configs/stfpm.yaml; single keys"),
        (["predict"], "data.source and model are missing: give --config FILE"),
        (["fit", "--config"], "--config needs a file: --config FILE, such as configs/stfpm.yaml"),
        (["fit", "--config", "--trainer.max_epochs", "3"], "--config needs a file"),
        (["fit", "--data.source.root", "X"], "the data has no source: give --config FILE, or --data.source Folder ("),
        ([*DEMO, "--data.source", "Folder"], "data.source Folder needs --data.source.nominal"),
        ([*DEMO, "--data.source", "Table", "--data.source.root", "."], "data.source Table needs --data.source.table"),
        ([*DEMO, "--dashboards", "wandb"], "dashboards is wandb, but it must be a list, such as '[wandb]'"),
        (
            [*DEMO, "--predictions.regions", "coco"],
            "predictions.regions is coco, but it must be a list, such as '[coco]'",
        ),
        ([*DEMO, "--decision.clean_up", "{closing: a}"], "decision.clean_up.closing is a, but it must be a number"),
        ([*DEMO, "--model.lrr", "3"], "there is no key lrr in model. Did you mean lr?"),
        ([*DEMO, "--model.image_size", "64"], "there is no key image_size in model. Did you mean view.image_size?"),
        ([*DEMO, "--shots", "3"], "there is no option --shots. Did you mean data.split.shots?"),
        ([*DEMO, "--epochs", "3"], "there is no option --epochs. Did you mean trainer.max_epochs?"),
        ([*DEMO, "--image_size", "64"], "there is no option --image_size. Did you mean model.view.image_size?"),
        ([*DEMO, "--img_size", "64"], "there is no option --img_size. Did you mean model.view.image_size?"),
        ([*DEMO, "--images", "x"], "there is no option --images"),
        (["predict", *DEMO[1:], "--root", "x"], "there is no option --root. Did you mean data.predict_path?"),
        (["predict", *DEMO[1:], "--images", "x"], "there is no option --images. Did you mean data.predict_path?"),
        (["test", *DEMO[1:], "--dataset", "x"], "there is no option --dataset. Did you mean data.source?"),
        ([*DEMO, "--dataset", "MVTec"], "there is no option --dataset. Did you mean data.source?"),
        (
            [*DEMO, "--data", "MVTec"],
            "data is MVTec, but it takes keys, or a YAML file of them. Did you mean data.source?",
        ),
        (
            [*DEMO, "--heatmaps", "false"],
            "heatmaps is false, but it takes keys, or a YAML file of them. Did you mean heatmaps.enabled?",
        ),
        ([*DEMO, "--trainer", "gpu"], "trainer is gpu, but it takes keys, or a YAML file of them"),
        ([*DEMO, "--model", "stfpm"], "model is stfpm, but there is no such class. Did you mean STFPM?"),
        ([*DEMO, "--data.source", "mvtec"], "data.source is mvtec, but there is no such class. Did you mean MVTec?"),
        ([*DEMO, "--output", "x"], "there is no option --output. Did you mean trainer.default_root_dir?"),
        ([*DEMO, "--data.folds", "3"], "there is no option --data.folds. Did you mean decision.folds?"),
        ([*DEMO, "--decision.fold", "3"], "there is no option --decision.fold. Did you mean decision.folds?"),
        ([*DEMO, "--model", "STFPMM"], "model is STFPMM, but there is no such class. Did you mean STFPM?"),
        ([*DEMO, "--trainer.max_epochs", "x"], "trainer.max_epochs is x, but it must be a whole number"),
        (
            [*DEMO, "--trainer.max_epoch", "1"],
            "there is no option --trainer.max_epoch. Did you mean trainer.max_epochs",
        ),
        ([*DEMO, "--foo", "3"], "there is no option --foo"),
        ([*DEMO, "--seed_everything", "-3"], "seed_everything is -3, but it must lie between 0 and 4294967295"),
        (
            [*DEMO, *["--data.source", "MVTec", "--data.source.category", "null", "--data.source.root", "/nowhere"]],
            "there is no folder /nowhere: data.source.root is the folder that holds the images of the data set",
        ),
        ([*DEMO, "--heatmaps.height", "-5"], "heatmaps.height is -5, but it must lie between 16 and 8192"),
        ([*DEMO, "--patience", "0"], "patience is 0, but it must be above 0"),
        ([*DEMO, "--model.view.overlap", "8"], "view.overlap is 8, but there are no tiles: set view.tile, or leave it"),
    ],
)
def test_a_wrong_command_line_is_explained(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message_of(monkeypatch, *words).startswith(message)


STOPPING = ["--trainer.callbacks", "EarlyStopping"]
LOGGER = ["--trainer.logger", "TensorBoardLogger"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*STOPPING, "--trainer.callbacks.monitr", "x"],
            "there is no key monitr in trainer.callbacks. Did you mean monitor?",
        ),
        (["--trainer.callbacks.monitor", "x"], "there is no key monitor in trainer.callbacks"),
        (
            ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitr: x}}]"],
            "there is no key monitr in trainer.callbacks. Did you mean monitor?",
        ),
        (
            [*STOPPING, "--trainer.callbacks.patience", "x"],
            "trainer.callbacks.patience is x, but it must be a whole number",
        ),
        (
            ["--trainer.logger", "wandb"],
            "trainer.logger is wandb, but there is no such class. Did you mean WandbLogger?",
        ),
        ([*LOGGER, "--trainer.logger.nme", "x"], "there is no key nme in trainer.logger. Did you mean name?"),
        (["--data.augment", "HorizontalFlip", "--data.augment.px", "3"], "there is no key px in data.augment"),
        (["--data.augment", "[HorizontalFlp]"], "data.augment is HorizontalFlp, but there is no such class"),
        (["--model.view.sz", "3"], "there is no key sz in model.view"),
        (["--model.view.image_size", "x"], "model.view.image_size is x, but it must be a whole number or a list"),
        (["--model.backbone.nme", "x"], "model.backbone is a text, and has no key nme"),
    ],
)
def test_a_value_of_several_types_is_one_sentence(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser tries each of the types, and each complains."""
    assert message_of(monkeypatch, *DEMO, *words) == message


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("model:", "modell:", "there is no key modell.init_args.view.image_size (in {file}). Did you mean model?"),
        ("image_size", "imge_size", "there is no key imge_size in model.view (in {file}). Did you mean image_size?"),
    ],
)
def test_a_wrong_key_of_a_file_names_the_file(
    right: str, wrong: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    text = (CONFIGS / "demo.yaml").read_text(encoding="utf-8").replace(f"\n{right}", f"\n{wrong}")
    file.write_text(text.replace(f"  {right}", f"  {wrong}"), encoding="utf-8")
    assert message_of(monkeypatch, "fit", "--config", str(file)) == message.format(file=file)


def test_a_file_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, text = tmp_path / "old.yaml", (CONFIGS / "demo.yaml").read_text(encoding="utf-8")
    file.write_text("# lit_ad==0.0.1\n" + text.replace("\nmodel:", "\nmodell:"), encoding="utf-8")
    assert f"(in {file}, which lit_ad 0.0.1 wrote: see UPGRADING.md)" in message_of(
        monkeypatch, "fit", "--config", str(file)
    )


def test_a_value_that_is_none_of_a_few() -> None:
    message = "Parser key \"format\":\n  Expected a typing.Literal['onnx', 'torch']. Got value: tflite"
    assert explain_error(message, []) == "format is tflite, but it must be one of onnx, torch"


def test_a_value_that_is_neither_a_number_nor_a_word() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--folds", type=int | Literal["leave-one-out"] | None)
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args(["--folds", "three"])
    told = explain_error(str(refused.value), ["folds"])
    assert told == "folds is three, but it must be a whole number or leave-one-out"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_no_hint_names_a_key_that_has_no_effect(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("epochs", "steps", "lr"):
        assert message_of(monkeypatch, command, *DEMO[1:], f"--{name}", "3") == f"there is no option --{name}"


def test_hints_name_the_nearest_key() -> None:
    assert explain_error("unrecognized arguments: --data.sorce x", ["data.source"]).endswith(
        "Did you mean data.source?"
    )
    assert explain_error("Expected a path but Foldr is none", []).endswith("Did you mean Folder?")
    assert explain_error("nothing like it", ["data.source"]) == "nothing like it"


def test_a_file_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"\x80")
    for words in (["--checkpoint", str(file)], [f"--checkpoint={file}"]):
        told = f"checkpoint is {file}, but it takes keys, or a YAML file of them. Did you mean ckpt_path?"
        assert message_of(monkeypatch, *DEMO, *words) == told
    with pytest.raises(UserError, match=f"^config is {file}, but it takes keys, or a YAML file of them "):
        call(benchmark, "lit-ad benchmark", ["--config", str(file)], config_file=True)
    assert explain_binary_file(["--checkpoint"]).startswith("a file is no text")
