"""configs/cluster/*.sbatch run on a real Slurm on this machine: a controller and two nodes, which the tests start."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
ABSENT = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"needs Slurm (Debian: slurm-wlm, munge): no {', '.join(ABSENT)}"),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="Slurm's daemons start as root"),
]

PATIENCE = 600  # seconds: what takes one on an idle machine may wait for minutes on a busy one

SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


@dataclass
class Cluster:
    """A user's directory to submit from, the commands, and the arguments of a small training."""

    home: Path
    environment: dict[str, str]
    small: list[object]

    def run(self, *command: object, tries: int = 1) -> str:
        while True:
            done = subprocess.run(
                [*map(str, command)], cwd=self.home, env=self.environment, capture_output=True, text=True, check=False
            )
            tries -= 1
            if done.returncode == 0 or tries == 0:
                break
            time.sleep(1)
        assert done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *arguments: object, options: tuple[object, ...] = ()) -> str:
        """The number of the job. The options make it fit this machine: no GPU, one core for each task."""
        options = ("--parsable", "--gres=none", "--cpus-per-task=1", *options)
        return self.run("sbatch", *options, ROOT / "configs/cluster" / script, *arguments)

    def job(self, job: str) -> dict[str, str]:
        # munge waits two seconds for a client, and on a busy machine that is too short now and then.
        lines = self.run("scontrol", "show", "job", "--oneliner", job, tries=5)
        return dict(word.split("=", 1) for word in lines.split() if "=" in word)

    def until(self, job: str, *states: str, seconds: float = PATIENCE) -> dict[str, str]:
        """Wait until the job is in one of these states. What Slurm says of it then."""
        deadline = time.monotonic() + seconds
        while (now := self.job(job))["JobState"] not in states:
            assert now["JobState"] not in ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED"), self.output(job)
            assert time.monotonic() < deadline, f"job {job} is {now['JobState']}:\n{self.output(job)}"
            time.sleep(0.2)
        return now

    def output(self, job: str) -> str:
        path = self.home / f"slurm-{job}.out"
        return path.read_text() if path.is_file() else ""

    def trains(self, job: str) -> Path:
        """Wait until the job has trained an epoch or more; its last checkpoint."""
        last = self.home / f"runs/slurm-{job}/checkpoints/last.ckpt"
        deadline = time.monotonic() + PATIENCE
        while not last.is_file():
            assert time.monotonic() < deadline and self.job(job)["JobState"] in ("PENDING", "RUNNING"), self.output(job)
            time.sleep(0.1)
        return last

    def metrics(self, job: str) -> str:
        return (self.home / f"runs/slurm-{job}/metrics.json").read_text()


@pytest.fixture(scope="module")
def cluster(images: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm cluster in a directory of its own, on free ports."""
    home = tmp_path_factory.mktemp("slurm")
    (home / "state").mkdir()
    conf, key = home / "slurm.conf", home / "munge.key"
    conf.write_text(SLURM_CONF.format(host=socket.gethostname().split(".")[0], home=home, ports=free_ports(3)))
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))} | {
        "SLURM_CONF": str(conf),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # where lit-ad is
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",  # node0 is no host name here
        "WANDB_MODE": "offline",
    }
    files = [f"--{name}-file={home}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={home}/munge.socket", *files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", "node0"],
        ["slurmd", "-D", "-N", "node1"],
    ]
    small = [
        *("--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t", "--model.weights", resnet_file),
        *("--model.view.image_size", 64, "--data.batch_size", 4, "--trainer.accelerator", "cpu"),
    ]
    started: list[subprocess.Popen[bytes]] = []
    cluster = Cluster(home, environment, small)
    try:
        for command in daemons:
            with (home / f"{len(started)}-{command[0]}.log").open("w") as log:
                started.append(subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log))
            time.sleep(1)
        ask, deadline = ["sinfo", "--noheader", "--partition=low", "--format=%T"], time.monotonic() + 60
        while subprocess.run(ask, env=environment, capture_output=True, check=False).stdout != b"idle\n":
            assert time.monotonic() < deadline, (home / "1-slurmctld.log").read_text()
            time.sleep(0.5)
        yield cluster
    finally:
        stop(started, conf)


def stop(started: list[subprocess.Popen[bytes]], conf: Path) -> None:
    """End the daemons and all processes that they started: these have this slurm.conf in their environment."""
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    mark = f"SLURM_CONF={conf}".encode()
    for number in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            if number != os.getpid() and mark in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
                os.kill(number, signal.SIGKILL)
        except OSError:  # it ended, or shows its environment to nobody
            pass


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(autouse=True)
def no_job_left(cluster: Cluster) -> Iterator[None]:
    """Cancel all jobs after a test, so that a test that failed leaves free nodes."""
    yield
    cluster.run("scancel", "--user=root", tries=5)


EPOCHS, STEPS = 100, 3  # ten seconds or more


def training(cluster: Cluster, images: Path) -> list[object]:
    return [*cluster.small, "--data.source.root", images, "--trainer.max_epochs", EPOCHS]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, images: Path) -> str:
    """The metrics of a job that ran without interruption."""
    job = cluster.submit("one_node.sbatch", *training(cluster, images))
    assert cluster.until(job, "COMPLETED")["Restarts"] == "0"
    return cluster.metrics(job)


def preempt(cluster: Cluster, job: str) -> None:
    """Preempt a job: its tasks get SIGTERM and time to end, as if a job of higher priority needed the node."""
    cluster.run("sbatch", "--partition=high", f"--nodelist={cluster.job(job)['NodeList']}", "--wrap=sleep 1")


def run_out_of_time(cluster: Cluster, job: str) -> None:
    """Send the signal of --signal, which preemption also sends if the cluster has preempt_send_user_signal."""
    cluster.run("scancel", "--signal=USR1", job)


def lose_the_node(cluster: Cluster, job: str) -> None:
    node = cluster.job(job)["NodeList"]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.run("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.mark.parametrize("interrupt", [preempt, run_out_of_time, lose_the_node])
def test_an_interrupted_job_reaches_the_results_of_an_uninterrupted_one(
    cluster: Cluster, whole: str, images: Path, interrupt: Callable[[Cluster, str], None]
) -> None:
    wandb = ("--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", cluster.home)
    job = cluster.submit("one_node.sbatch", *training(cluster, images), *wandb)
    run = cluster.trains(job).parents[1]
    interrupt(cluster, job)
    cluster.until(job, "PENDING")
    assert not (run / "metrics.json").exists()  # nobody tested a half-trained model
    last = max([*run.glob("hpc_ckpt_*"), run / "checkpoints/last.ckpt"], key=lambda path: path.stat().st_mtime_ns)
    assert torch.load(last, weights_only=True)["global_step"] in range(STEPS, STEPS * EPOCHS)

    cluster.until(job, "RUNNING")
    assert cluster.until(job, "COMPLETED")["Restarts"] == "1"
    assert re.findall("Restored all states from the checkpoint at (.*)", cluster.output(job)) == [str(last)]
    assert "This run is in " in cluster.output(job)
    assert cluster.metrics(job) == whole
    starts = list((cluster.home / "wandb").glob(f"offline-run-*-tests-{job}"))
    assert len(starts) == 2  # of one run: `wandb sync` makes them one curve


def test_an_interrupted_job_on_two_nodes_resumes(cluster: Cluster, images: Path) -> None:
    jobs = [cluster.submit("several_nodes.sbatch", *training(cluster, images)) for _ in range(2)]
    assert cluster.until(jobs[0], "COMPLETED")["NodeList"] == "node[0-1]"
    cluster.trains(jobs[1])
    run_out_of_time(cluster, jobs[1])
    cluster.until(jobs[1], "PENDING")
    assert cluster.until(jobs[1], "COMPLETED")["Restarts"] == "1"
    assert "Starting with 2 processes" in cluster.output(jobs[1])
    assert cluster.metrics(jobs[0]) == cluster.metrics(jobs[1])


def test_an_array_of_jobs_runs_a_benchmark(cluster: Cluster, images: Path) -> None:
    """Two jobs share two categories. The job that runs out of time resumes, and the tables have both categories."""
    for category in ("bottle", "cable"):
        (cluster.home / "data" / category).parent.mkdir(exist_ok=True)
        (cluster.home / "data" / category).symlink_to(images)
    arguments = [str(word) for word in cluster.small[2:]]
    method = {"config": str(ROOT / "configs/stfpm.yaml"), "arguments": arguments}
    sources = {"data": {"class_path": "MVTec", "init_args": {"root": str(cluster.home / "data")}}}
    (cluster.home / "benchmark.yaml").write_text(
        json.dumps({"methods": {"STFPM": method}, "sources": sources, "output": "out", "budget": {"epochs": EPOCHS}})
    )
    job = cluster.submit("benchmark.sbatch", "--config", "benchmark.yaml", options=("--array=0-1",))
    last, deadline = cluster.home / "out/STFPM/cable/seed-0/checkpoints/last.ckpt", time.monotonic() + PATIENCE
    while not last.is_file():
        assert time.monotonic() < deadline, cluster.output(f"{job}_1")
        time.sleep(0.1)
    cluster.run("scancel", "--signal=TERM", f"{job}_1")  # to its steps, as --signal does it
    cluster.until(f"{job}_1", "PENDING")
    assert cluster.until(f"{job}_1", "COMPLETED")["Restarts"] == "1"
    cluster.until(f"{job}_0", "COMPLETED")
    report = json.loads((cluster.home / "out/results.json").read_text())
    assert report["missing"] == {}
    assert [cell["attempts"] for cell in report["cells"]] == [1, 2]


def test_failed_and_cancelled_jobs_are_not_repeated(cluster: Cluster, images: Path) -> None:
    wrong = cluster.submit("one_node.sbatch", *cluster.small, "--data.source.root", cluster.home / "nowhere")
    cluster.until(wrong, "FAILED")
    cancelled = cluster.submit("one_node.sbatch", *training(cluster, images))
    cluster.trains(cancelled)
    cluster.run("scancel", cancelled)
    cluster.until(cancelled, "CANCELLED")
    time.sleep(10)  # which a requeue would have taken less than
    for job, state in ((wrong, "FAILED"), (cancelled, "CANCELLED")):
        assert (cluster.job(job)["JobState"], cluster.job(job)["Restarts"]) == (state, "0")
    assert re.search("lit-ad: .*nowhere", cluster.output(wrong))
