"""A training from a program equals one by the command."""

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_ad
from lit_ad.data import MVTec
from lit_ad.errors import UserError
from lit_ad.run import Run, flatten, write_value

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "configs/demo.yaml"
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `lit-ad fit` on the demo, after two epochs."""
    home = tmp_path_factory.mktemp("command")
    words = ["fit", "--config", DEMO, "--trainer.max_epochs", "2", "--trainer.default_root_dir", "run"]
    subprocess.run([sys.executable, "-m", "lit_ad", *map(str, words)], cwd=home, check=True, capture_output=True)
    return home / "run"


def test_three_lines_give_the_results_of_the_command(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (sys.argv, list(sys.path), warnings.showwarning, warnings.formatwarning, torch.get_num_threads())
    run = lit_ad.fit("demo", keys={"trainer": {"max_epochs": 2}, "trainer.default_root_dir": tmp_path / "run"})
    after = (sys.argv, list(sys.path), warnings.showwarning, warnings.formatwarning, torch.get_num_threads())
    assert after == before
    assert run.directory == tmp_path / "run"
    assert run.metrics == Run(command).metrics
    assert 0.5 < run.metrics["pooled"]["image_auroc"] <= 1
    mine, theirs = ({path.relative_to(home) for path in home.rglob("*")} for home in (run.directory, command))
    assert mine == theirs
    configs = [yaml.safe_load((home / "config.yaml").read_text()) for home in (run.directory, command)]
    assert configs[0].pop("data")["source"]["class_path"] == configs[1].pop("data")["source"]["class_path"]
    assert configs[0] == configs[1]
    detector = run.detector()
    assert detector.card.decision is not None
    told = json.loads((command / "metrics.json").read_text())
    assert detector.card.decision.threshold() == pytest.approx(told["threshold"], rel=1e-6)
    assert detector(next((run.directory / "heatmaps").rglob("*.jpg"))).score > 0


def test_data_is_the_root_of_the_source_and_runs_are_numbered(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"model.backbone": "resnet10t", "model.weights": resnet_file, "model.view.image_size": 64}
    keys = {**small, "data.batch_size": 4, "trainer.max_epochs": 1, "test_after_fit": False}
    runs = [lit_ad.fit(ROOT / "configs/stfpm.yaml", data=images, keys=keys) for _ in range(2)]
    assert all(run.directory.parent == tmp_path / "runs/stfpm" for run in runs)
    assert runs[0].directory != runs[1].directory
    saved = yaml.safe_load((runs[0].directory / "config.yaml").read_text())
    assert saved["data"]["source"]["init_args"]["root"] == str(images)
    with pytest.raises(UserError, match=r"there is no .*metrics\.json: the run was not tested; lit-ad test "):
        _ = runs[0].metrics
    filters = logging.getLogger("lightning.pytorch.utilities.rank_zero").filters
    assert len(filters) == len(set(filters))


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        (DEMO, {"trainer.max_epoch": 2}, r"max_epoch=2\. Did you mean trainer\.max_epochs\?"),
        (DEMO, {"model.lr": "much"}, r"\blr\b"),
        (DEMO, {"data.source.category": "wood"}, "wood"),
        (ROOT / "nowhere.yaml", {}, r"cannot read the config file .*nowhere\.yaml: No such file"),
        ({"model": 3}, {}, r"^config is of type dict: give a file or a name, and single keys as keys$"),
        (DEMO, ["--trainer.max_epochs=3"], r'^keys is of type list: give a dictionary, \{"trainer.max_epochs": 3\}$'),
        (DEMO, {"config": "stfpm"}, r"^config is no key: give the file as fit's config"),
        (DEMO, {"model.lr": 1, "model": {"lr": 2}}, r"^model.lr is given twice, in keys: leave out one of them$"),
        (DEMO, {"model.weights": None}, r"^the weights of tf_efficientnet_lite0 are None; weights can be: hub"),
        (DEMO, {"model.backbone": None}, r"^the name of the backbone is None: give a model of timm"),
        (DEMO, {"trainer.callbacks": [print]}, r"trainer\.callbacks is, or contains, a builtin_function_or_method"),
    ],
)
def test_bad_input_is_an_error_in_one_line(
    config: Any, keys: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        lit_ad.fit(config, keys=keys)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.yaml"))


def test_data_is_a_folder_and_given_once(tmp_path: Path) -> None:
    source = {"class_path": "MVTec", "init_args": {"root": str(tmp_path)}}
    with pytest.raises(UserError, match=r"^data is of type MVTec: give the folder of images; another source is a key"):
        lit_ad.fit(DEMO, data=MVTec(tmp_path))  # type: ignore[arg-type]
    for keys in ({"data.source.root": "x"}, {"data.source": source}, {"data": {"source": source}}):
        with pytest.raises(UserError, match=r"^data.source.root is given twice, as data and in keys: leave out one"):
            lit_ad.fit(DEMO, data=tmp_path, keys=keys)


def test_a_directory_without_a_run_has_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        Run(tmp_path).detector()
    assert Run(str(tmp_path)) == Run(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"there is no run directory .*nowhere"):
        Run(tmp_path / "nowhere")


def test_keys_with_dots_or_nested_as_in_a_file() -> None:
    model = {"class_path": "STFPM", "init_args": {"lr": 0.1}}
    keys = {"model": model, "trainer": {"max_epochs": 3, "logger": False}, "data.split.val_fraction": 0.2}
    assert dict(flatten(keys)) == {
        "model": model,
        "trainer.max_epochs": 3,
        "trainer.logger": False,
        "data.split.val_fraction": 0.2,
    }
    assert [write_value("a", value) for value in ("hub", None, True, 0.1, (1, 2), Path("x"))] == [
        *("hub", "null", "true", "0.1", "[1, 2]", "x")
    ]
    assert json.loads(write_value("model", {**model, "at": Path("x")})) == {**model, "at": "x"}


def test_two_processes_from_a_script(tmp_path: Path) -> None:
    """The second process is the command, whatever program the first one is."""
    keys = {"trainer.max_epochs": 1, "trainer.devices": 2, "trainer.accelerator": "cpu"}
    script = f"import lit_ad\nrun = lit_ad.fit({str(DEMO)!r}, keys={keys!r})\nprint(run.metrics['pooled'])\n"
    (tmp_path / "train.py").write_text(script)
    words = [sys.executable, "train.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("{'image_auroc': ")
    assert len(list((tmp_path / "runs/stfpm").iterdir())) == 1


def test_importing_lit_ad_does_not_import_the_command() -> None:
    code = (
        "import sys, lit_ad; lit_ad.fit; print([m for m in ('torch', 'lightning', 'jsonargparse') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_loss_that_chose_the_best_checkpoint(command: Path, tmp_path: Path) -> None:
    words = ["validate", command, "--trainer.default_root_dir", tmp_path / "again"]
    done = subprocess.run(
        [sys.executable, "-m", "lit_ad", *map(str, words)], check=True, capture_output=True, text=True
    )
    told = re.search(r"loss[^\d]*([\d.]+)", done.stdout)
    assert told is not None and Run(command).val_loss == pytest.approx(float(told[1]), rel=1e-3)
    with pytest.raises(UserError, match="there is no checkpoint"):
        _ = Run(tmp_path).val_loss


def test_the_rate_is_tuned_by_optuna(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the example of docs/training.md, with a small teacher, few images and two trials."""
    optuna = pytest.importorskip("optuna")
    (code,) = (block for block in FENCED.findall((ROOT / "docs/training.md").read_text()) if "optuna" in block)
    fit = lit_ad.fit
    small = {"model.backbone": "resnet10t", "model.weights": resnet_file, "model.view.image_size": 64}
    monkeypatch.setattr(
        lit_ad, "fit", lambda name, data, keys: fit(name, images, {**keys, **small, "trainer.max_epochs": 1})
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("n_trials=20", "n_trials=2"), names)
    losses = [Run(tmp_path / f"runs/tuning/{number}").val_loss for number in range(2)]
    assert names["study"].best_value == min(losses) and losses[0] != losses[1]
    assert isinstance(names["study"], optuna.Study)
