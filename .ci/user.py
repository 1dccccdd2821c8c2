"""Run the commands of a user with a user's defaults, on a copy of the committed tree alone: `make user`.

Progress bars are on, the images are those of the demo, and there are no files beside the tree. Each step has a time
limit, so a step that hangs fails. The exit code is the number of failed steps.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable


class StepError(Exception):
    """A step failed; the message says why."""


class Steps:
    """Runs steps in a clone, and prints a line for each.

    Args:
        home: An empty directory for the clone and for the files that the steps write.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.clone, self.failed = home, home / "clone", 0
        archive = subprocess.run(
            ["git", "archive", "--prefix=clone/", "HEAD"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x", "-C", str(home)], input=archive.stdout, check=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.clone),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(home / "cache"),
            "WANDB_MODE": "offline",
        }

    def run(self, limit: int, *command: str | Path, folder: Path | None = None) -> str:
        """Run a command in the clone, and return its output.

        Raises:
            StepError: The command fails, or takes longer than `limit` seconds. Then its whole process group is killed.
        """
        log = self.home / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder or self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise StepError(f"not finished after {limit} s; last line: {last_line(log)}") from None
        if code:
            raise StepError(last_line(log))
        return log.read_text(encoding="utf-8", errors="replace")

    def lit_ad(self, limit: int, *arguments: str | Path, folder: Path | None = None) -> str:
        """Run a command of lit-ad."""
        return self.run(limit, PYTHON, "-m", "lit_ad", *arguments, folder=folder)

    def fit(self, limit: int, name: str, *arguments: str | Path) -> Path:
        """Train on the demo's images for two epochs, and return the run's directory."""
        run = self.home / name
        self.lit_ad(
            limit, "fit", "--config", "configs/demo.yaml", "--trainer.max_epochs", "2",
            "--trainer.default_root_dir", run, *arguments,
        )  # fmt: skip
        return run

    def step(self, name: str, job: Callable[[], object]) -> None:
        """Do a step, and print whether it failed."""
        started = time.monotonic()
        try:
            job()
        except StepError as error:
            self.failed += 1
            print(f"FAILED  {name}: {error}", flush=True)
        else:
            print(f"ok      {name} ({time.monotonic() - started:.0f} s)", flush=True)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def image_auroc(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text(encoding="utf-8"))["rows"]["pooled"]["image_auroc"])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder))
        plain = steps.home / "plain"
        config, checkpoint, new = plain / "config.yaml", plain / "checkpoints/best.ckpt", steps.home / "new"

        def compare_averaged() -> None:
            average = ("--trainer.callbacks", "lightning.pytorch.callbacks.EMAWeightAveraging")
            run, again = (
                steps.fit(240, "averaged", "--trainer.max_epochs", "3", *average),
                steps.home / "averaged_again",
            )
            steps.lit_ad(
                120, "test", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt",
                "--trainer.default_root_dir", again,
            )  # fmt: skip
            if abs(image_auroc(run) - image_auroc(again)) > 1e-6:
                raise StepError(f"image AUROC {image_auroc(run)} by fit, {image_auroc(again)} by test of the same file")

        def predict() -> None:
            new.mkdir()
            for number, picture in enumerate(plain.glob("heatmaps/*/*/00*.jpg")):
                (new / f"{number}.jpg").write_bytes(picture.read_bytes())
            steps.lit_ad(120, "predict", "--config", config, "--ckpt_path", checkpoint, "--data.predict_path", new)

        def load_damaged() -> None:
            content = bytearray(checkpoint.read_bytes())
            middle = len(content) // 2
            content[middle : middle + 2000] = bytes(255 - byte for byte in content[middle : middle + 2000])
            (steps.home / "damaged.ckpt").write_bytes(content)
            load = f"from lit_ad import Detector; Detector.load({str(steps.home / 'damaged.ckpt')!r})"
            try:
                steps.run(120, PYTHON, "-c", load)
            except StepError as error:
                if "damaged" not in str(error):
                    raise
            else:
                raise StepError("a checkpoint with 2000 inverted bytes was loaded")

        def read_configs() -> None:
            for path in sorted((steps.clone / "configs").glob("*.yaml")):
                command = "distill" if path.name.startswith("distill") else "fit"
                try:
                    steps.lit_ad(60, command, "--config", path, "--print_config")
                except StepError as error:
                    raise StepError(f"{path.name}: {error}") from error

        both = "[wandb, tensorboard]"
        again = ("--trainer.default_root_dir", steps.home / "again")
        steps.step("help", lambda: steps.lit_ad(60, "fit", "--help"))
        steps.step("the demo", lambda: steps.fit(200, "plain"))
        steps.step("two processes", lambda: steps.fit(240, "two", "--trainer.devices", "2"))
        steps.step(
            "two processes and both dashboards",
            lambda: steps.fit(300, "boards", "--trainer.devices", "2", "--dashboards", both),
        )
        steps.step("averaged weights: fit and test agree", compare_averaged)
        steps.step(
            "a test from another folder",
            lambda: steps.lit_ad(120, "test", "--config", config, "--ckpt_path", checkpoint, *again, folder=steps.home),
        )
        steps.step("predict a folder", predict)
        steps.step("export to ONNX", lambda: steps.lit_ad(180, "export", "--ckpt_path", checkpoint, "--format", "onnx"))
        steps.step("a damaged checkpoint is refused", load_damaged)
        steps.step("every config can be read", read_configs)
        two = ("--config", "configs/benchmark/demo.yaml", "--only", "[brick]", "--budget.processor_minutes", "0.1")
        steps.step("a benchmark of two methods", lambda: steps.lit_ad(300, "benchmark", *two, folder=steps.clone))
        print(f"{steps.failed} failed")
        return steps.failed


if __name__ == "__main__":
    sys.exit(main())
