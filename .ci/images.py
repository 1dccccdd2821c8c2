"""Build and test the container images of docker/: `make images`.

The training image trains the demo and exports it. The service's image judges a picture with the exported file. The test
checks that the service is not root, can write only to /tmp and the journal, needs its token, passes its health check,
and has no torch.

Without a Docker daemon, buildah builds the same Dockerfiles, as root, on a Debian that debootstrap makes in place of
the image python:3.12-slim, and the service runs in a chroot: see `Chroot`. apt install buildah debootstrap.
"""

import argparse
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from lit_ad import Detector

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/python:3.12-slim"
IMAGES = {"train": "lit-ad", "serve": "lit-ad-serve"}
CLONE_NEWNET = 0x40000000  # from Linux's sched.h; Python has os.unshare only since 3.12
PORT, TOKEN, USER = 8000, "a-token-of-this-check", 10001
Mounts = Mapping[Path, str]  # folder on this machine -> folder in the container


def run(*command: str | Path, check: bool = True, quiet: bool = False) -> str:
    """Run a command, and return its output. Exit with an error if it fails and `check` is true."""
    print("$", *command, flush=True)
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    if check and done.returncode:
        sys.exit(f"{done.stdout[-5000:]}\nFAILED: {' '.join(map(str, command))}")
    if not quiet and done.stdout.strip():
        print(done.stdout.strip()[-1000:])
    return done.stdout


class Docker:
    """Builds and runs images by Docker's daemon."""

    options = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

    def build(self, name: str) -> None:
        run("docker", "build", "--file", f"docker/{name}.Dockerfile", "--tag", IMAGES[name], ".", quiet=True)

    def close(self) -> None:
        """Do nothing: `serving` has removed its container."""

    def size(self, name: str) -> str:
        return run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGES[name], quiet=True)

    def execute(self, name: str, mounts: Mounts, *words: str) -> str:
        """Run a command in an image, and return its output."""
        volumes = [word for folder, place in mounts.items() for word in ("--volume", f"{folder}:{place}")]
        return run("docker", "run", "--rm", "--shm-size", "1g", *volumes, IMAGES[name], *words)

    @contextmanager
    def serving(self, mounts: Mounts, *words: str) -> Iterator[None]:
        """Run the service while the block runs."""
        volumes = [word for folder, place in mounts.items() for word in ("--volume", f"{folder}:{place}")]
        options = (*self.options, "--publish", f"127.0.0.1:{PORT}:8000", "--env", f"LIT_AD_TOKEN={TOKEN}", *volumes)
        self.running = run("docker", "run", "--detach", *options, IMAGES["serve"], *words).split()[-1]
        try:
            yield
        finally:
            print(run("docker", "logs", self.running, quiet=True))
            run("docker", "rm", "--force", self.running)

    def inside(self, *words: str) -> bool:
        """Whether a command succeeds in the running service's container."""
        return subprocess.run(["docker", "exec", self.running, *words], check=False).returncode == 0

    def healthy(self) -> bool:
        """Wait for the image's health check, and return whether it passes."""
        for _ in range(90):
            state = run("docker", "inspect", "--format", "{{.State.Health.Status}}", self.running, quiet=True).strip()
            if state != "starting":
                return state == "healthy"
            time.sleep(1)
        return False


class Chroot:
    """Builds images by buildah without a daemon, and runs them in a chroot with the user, environment and command that
    they name.

    Args:
        home: The folder for the images.
        base: A folder with a Debian that has Python, in place of the base image. None: debootstrap makes one.
        wheels: A folder with wheels of torch for pip, if those of the package index are too large.
    """

    def __init__(self, home: Path, base: Path | None, wheels: Path | None) -> None:
        os.environ["BUILDAH_ISOLATION"] = "chroot"
        self.buildah = ("buildah", "--root", home / "store", "--runroot", home / "running")
        self.home, self.wheels = home, wheels
        if base is None:
            base = home / "base"
            packages = "python3,python3-venv,python3-pip,ca-certificates"
            run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", base, quiet=True)
        container = run(*self.buildah, "from", "scratch", quiet=True).split()[-1]
        root = Path(run(*self.buildah, "mount", container, quiet=True).split()[-1])
        run("cp", "--archive", f"{base}/.", root)
        (root / "usr/local/bin/python").unlink(missing_ok=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        shutil.copyfile(certificates, root / certificates.relative_to("/"))
        settings = ["--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--env", f"PIP_CERT={certificates}"]
        if wheels is not None:
            versions = [wheel.name.split("-")[1] for wheel in wheels.glob("torch-*.whl")]
            (root / "torch.txt").write_text(f"torch=={versions[0]}\n", encoding="utf-8")
            settings += ["--env", f"PIP_FIND_LINKS={wheels}", "--env", "PIP_CONSTRAINT=/torch.txt"]
        run(*self.buildah, "config", *settings, container)
        run(*self.buildah, "commit", "--rm", "--quiet", container, BASE, quiet=True)

    def close(self) -> None:
        """Unmount the images, so that their folder can be removed."""
        run(*self.buildah, "rm", "--all", quiet=True)
        run("umount", self.home / "store/overlay", check=False, quiet=True)

    def build(self, name: str) -> None:
        volume = () if self.wheels is None else ("--volume", f"{self.wheels}:{self.wheels}:ro")
        options = ("--format", "docker", "--pull-never", "--file", f"docker/{name}.Dockerfile", "--tag", IMAGES[name])
        run(*self.buildah, "bud", *volume, *options, ".", quiet=True)

    def size(self, name: str) -> str:
        total, base = (size_of(self.mount(image)) for image in (IMAGES[name], BASE))
        return f"{total}, of which the base image has {base}"

    def mount(self, image: str) -> Path:
        """Mount a new container of an image, and return its root folder."""
        container = run(*self.buildah, "from", "--pull-never", image, quiet=True).split()[-1]
        return Path(run(*self.buildah, "mount", container, quiet=True).split()[-1])

    def command(
        self, root: Path, name: str, mounts: Mounts, *words: str, entry: bool = True, read_only: bool = True
    ) -> list[str]:
        """Return the command that runs words in an image, with the image's user, environment, folder and entry point.

        With `read_only`, as the service runs, everything is read-only except /tmp and the mounts.
        """
        about = json.loads(run(*self.buildah, "inspect", "--type", "image", IMAGES[name], quiet=True))
        config = about["Docker"]["config"]
        self.health = config.get("Healthcheck", {}).get("Test", [])[1:]
        steps = ['root=$1; shift; mount --bind "$root" "$root"']
        for folder, place in mounts.items():
            (root / place.strip("/")).mkdir(parents=True, exist_ok=True)
            steps.append(f'mount --bind "{folder}" "$root{place}"')
        steps += ['mount -o remount,bind,ro "$root"'] if read_only else []
        steps.append('mount -t tmpfs tmpfs "$root/tmp"')
        steps.append('mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"')
        # Not `exec chroot`: chroot changes the user, and the kernel then forgets --kill-child of the process.
        steps.append('cd "$root"; chroot "$@"; exit "$?"')
        inner = [f"--userspec={config['User']}", str(root), "env", "-i", f"--chdir={config['WorkingDir']}"]
        inner += [*config["Env"], f"LIT_AD_TOKEN={TOKEN}", *(config["Entrypoint"] if entry else []), *words]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*namespaces, "bash", "-ec", "\n".join(steps), "bash", str(root), *inner]

    def execute(self, name: str, mounts: Mounts, *words: str) -> str:
        return run(*self.command(self.mount(IMAGES[name]), name, mounts, *words, read_only=False))

    @contextmanager
    def serving(self, mounts: Mounts, *words: str) -> Iterator[None]:
        self.root, self.mounts = self.mount(IMAGES["serve"]), mounts
        if ctypes.CDLL(None).unshare(CLONE_NEWNET):  # a network of its own, in which no other service uses the port
            sys.exit("FAILED: this process may not make a network of its own")
        run("ip", "link", "set", "lo", "up")
        server = subprocess.Popen(self.command(self.root, "serve", mounts, *words))
        try:
            yield
        finally:
            server.kill()  # --kill-child then kills the service inside, too
            server.wait()

    def inside(self, *words: str) -> bool:
        command = self.command(self.root, "serve", self.mounts, *words, entry=False)
        return subprocess.run(command, check=False).returncode == 0

    def healthy(self) -> bool:
        return bool(self.health) and self.inside(*self.health[int(self.health[0] == "CMD") :])


def size_of(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", folder, quiet=True).split()[0])


def ask(method: str, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, bytes]:
    """Send a request to the service. Return the status and the body of its answer."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request(method, path, body, {} if token is None else {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    return response.status, response.read()


def port_closes() -> bool:
    """Whether the service's port is closed within ten seconds."""
    for _ in range(50):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", PORT)):
                return True
        time.sleep(0.2)
    return False


def check_service(engine: Docker | Chroot, model: Path, picture: Path, home: Path) -> None:
    """Let the service's image judge a picture, and check the limits of its rights."""
    journal = home / "journal"
    journal.mkdir()
    shutil.chown(journal, USER, USER)
    body, expected = picture.read_bytes(), Detector.load(model)(picture).score
    with engine.serving(
        {model.parent: "/models", journal: "/journal"}, f"/models/{model.name}", "--journal", "/journal"
    ):
        for _ in range(120):
            with suppress(OSError):  # the service has not started yet
                if ask("GET", "/health")[0] == 200:
                    break
            time.sleep(0.5)
        else:
            sys.exit("FAILED: the service does not answer within a minute")
        status, answer = ask("POST", "/detect", body, TOKEN)
        score = json.loads(answer).get("score")
        writes = "import sys; open(sys.argv[1] + '/written', 'w').close()"
        passed = {
            "its health check passes": engine.healthy(),
            "it refuses requests without the token": ask("POST", "/detect", body)[0] == 401,
            f"its score is that of Detector ({score}, {expected})": status == 200
            and abs(score - expected) <= 1e-4 * expected,
            "it is not root": engine.inside("python", "-c", f"import os; assert os.getuid() == {USER}"),
            "it cannot write to its own files": not engine.inside("python", "-c", writes, "/opt/lit_ad"),
            "it can write to /tmp": engine.inside("python", "-c", writes, "/tmp"),
            "it has no torch": engine.inside(
                "python", "-c", "import importlib.util as u; assert not u.find_spec('torch')"
            ),
            "it writes the journal": (journal / "journal.sqlite").is_file(),
        }
    passed["it ends with its container"] = port_closes()
    for line, holds in passed.items():
        print("ok    " if holds else "FAILED", line)
    if not all(passed.values()):
        sys.exit(1)


def try_images(engine: Docker | Chroot, home: Path, model: Path | None, picture: Path | None) -> None:
    """Build and test both images. If a model and a picture are given, build and test only the service's image."""
    if model is None or picture is None:
        engine.build("train")
        print("bytes of the training image:", engine.size("train"))
        runs = home / "runs"
        runs.mkdir()
        runs.chmod(0o777)
        demo = ("fit", "--config", "demo", "--trainer.max_epochs", "1", "--trainer.default_root_dir", "/runs/demo")
        engine.execute("train", {runs: "/runs"}, *demo)
        engine.execute("train", {runs: "/runs"}, "export", "/runs/demo", "--format", "onnx")
        (model,) = (runs / "demo/export").glob("*.onnx")
        picture = sorted((runs / "demo/heatmaps").rglob("*.jpg"))[0]
    engine.build("serve")
    print("bytes of the service's image:", engine.size("serve"))
    check_service(engine, model.resolve(), picture, home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file to serve; then the training image is not built")
    parser.add_argument("--picture", type=Path, help="an image to judge with the model")
    parser.add_argument("--base", type=Path, help="without Docker: the folder of a Debian with Python, by debootstrap")
    parser.add_argument("--wheels", type=Path, help="without Docker: a folder with a wheel of torch")
    options = parser.parse_args()
    if (options.model is None) != (options.picture is None):
        parser.error("give both --model and --picture, or neither")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        daemon = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
        engine = Docker() if daemon else Chroot(home, options.base, options.wheels)
        try:
            try_images(engine, home, options.model, options.picture)
        finally:
            engine.close()


if __name__ == "__main__":
    main()
