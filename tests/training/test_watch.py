"""Processes that wait for one another in vain, and processes that only wait for a long time."""

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SCRIPT = """
    import os
    import signal
    import sys
    import time
    import lightning as L
    import torch.distributed as dist
    from lightning.pytorch.demos.boring_classes import BoringModel
    from lit_ad.training.interruption import Interruption
    from lit_ad.training import watch as module
    from lit_ad.training.watch import Watch

    case, patience, home = sys.argv[1], float(sys.argv[2]), sys.argv[3]

    class Trouble(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            print(f"rank {trainer.global_rank} is in step {trainer.global_step}, process {os.getpid()}", flush=True)
            if case == "alone" and trainer.global_rank == 0:
                dist.barrier()
            elif case == "sleeps" and trainer.global_rank == 1:
                time.sleep(1000)
            elif case == "freezes" and trainer.global_rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif case == "works" and trainer.global_rank == 0 and trainer.global_step == 1:
                end = time.monotonic() + 3 * patience
                while time.monotonic() < end:
                    sum(range(20000))
                    time.sleep(0.01)

    module.PATIENCE_TO_JOIN, module.PATIENCE_OF_SIGNAL = 3.0 if case == "late" else 120.0, 3.0
    watch = Watch(patience)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, max_steps=2, limit_val_batches=0, default_root_dir=home, logger=False,
        callbacks=[Trouble(), Interruption(home + "/last.ckpt"), watch],
    )
    watch.join(trainer)
    if case == "late" and trainer.global_rank == 1:
        time.sleep(1000)
    trainer.fit(BoringModel())
"""


@contextmanager
def training(case: str, patience: float, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start two processes with Lightning, and end all of them afterwards."""
    (home / "script.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(home / "script.py"), case, str(patience), str(home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def any_left(session: int) -> bool:
    """Return whether a process of the session is alive."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


MISSING = r"Missing: rank 1 \(.*, process \d+\), {}\. Waiting: rank 0 \(.*, process \d+\), in \w+, called by"


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (
            "alone",
            r"not in one place: rank 0 .*, in barrier, called by stop_if_asked \(.*; rank 1 .*, in all_reduce, ",
        ),
        pytest.param("freezes", MISSING.format(r"no sign of life for \d+ s"), marks=pytest.mark.slow),
        pytest.param("sleeps", MISSING.format(r"in on_train_batch_end \(.*script.py:\d+\)"), marks=pytest.mark.slow),
    ],
)
def test_a_training_that_waits_in_vain_ends_with_a_message(tmp_path: Path, case: str, line: str) -> None:
    with training(case, 5, tmp_path) as process:
        code = process.wait(120)
        printed = (tmp_path / "log").read_text()
        deadline = time.monotonic() + 20
        while any_left(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any_left(process.pid)
    assert code == 1
    told = [text for text in printed.splitlines() if text.startswith("lit-ad: no process of this training has gone on")]
    assert len(told) == 1, printed
    assert re.search(line, told[0]), told[0]


def test_a_training_that_waits_for_a_working_process_goes_on(tmp_path: Path) -> None:
    with training("works", 2, tmp_path) as process:
        assert process.wait(120) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_a_training_that_waits(tmp_path: Path, number: signal.Signals) -> None:
    with training("sleeps", math.inf, tmp_path) as process:
        deadline = time.monotonic() + 60
        while "rank 0 is in step 1" not in (log := (tmp_path / "log").read_text()) or "rank 1 is in" not in log:
            assert time.monotonic() < deadline and process.poll() is None, log
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert "Missing: rank 1" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_process_that_does_not_join_the_training_is_reported(tmp_path: Path) -> None:
    with training("late", 1, tmp_path) as process:
        assert process.wait(120) == 1
    log = (tmp_path / "log").read_text()
    assert re.search(r"lit-ad: rank 0 of 2 has waited 3 s at 127.0.0.1:\d+, and not all other processes have come", log)
