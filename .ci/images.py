"""The container images of docker/: built, and tried. `make images`.

The training image trains the demo and exports it. The service's image judges a picture by that file: as another user
than root, with nothing writable but /tmp and the journal, behind a token, with its own health check, and without torch.

Where there is no Docker daemon, the same Dockerfiles are built by buildah, as root, on a Debian that debootstrap makes
in place of the image python:3.12-slim, and the service runs in a chroot: see `Chroot`. apt install buildah debootstrap.
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
CLONE_NEWNET = 0x40000000  # of Linux's sched.h; os.unshare is there since Python 3.12
PORT, TOKEN, USER = 8000, "a-token-of-this-check", 10001
Mounts = Mapping[Path, str]  # folders here -> in the container


def run(*command: str | Path, check: bool = True, quiet: bool = False) -> str:
    """Run a command, and return what it printed."""
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
    """By Docker's daemon."""

    options = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

    def build(self, name: str) -> None:
        run("docker", "build", "--file", f"docker/{name}.Dockerfile", "--tag", IMAGES[name], ".", quiet=True)

    def close(self) -> None:
        """Nothing is left open."""

    def size(self, name: str) -> str:
        return run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGES[name], quiet=True)

    def execute(self, name: str, mounts: Mounts, *words: str) -> str:
        """Run a command of the image to its end, and return what it printed."""
        volumes = [word for folder, place in mounts.items() for word in ("--volume", f"{folder}:{place}")]
        return run("docker", "run", "--rm", "--shm-size", "1g", *volumes, IMAGES[name], *words)

    @contextmanager
    def serving(self, mounts: Mounts, *words: str) -> Iterator[None]:
        """The service, running."""
        volumes = [word for folder, place in mounts.items() for word in ("--volume", f"{folder}:{place}")]
        given = (*self.options, "--publish", f"127.0.0.1:{PORT}:8000", "--env", f"LIT_AD_TOKEN={TOKEN}", *volumes)
        self.running = run("docker", "run", "--detach", *given, IMAGES["serve"], *words).split()[-1]
        try:
            yield
        finally:
            print(run("docker", "logs", self.running, quiet=True))
            run("docker", "rm", "--force", self.running)

    def inside(self, *words: str) -> bool:
        """Whether a command succeeds in the running service's container."""
        return subprocess.run(["docker", "exec", self.running, *words], check=False).returncode == 0

    def healthy(self) -> bool:
        """Whether the image's health check has passed."""
        for _ in range(90):
            state = run("docker", "inspect", "--format", "{{.State.Health.Status}}", self.running, quiet=True).strip()
            if state != "starting":
                return state == "healthy"
            time.sleep(1)
        return False


class Chroot:
    """By buildah, without a daemon, in a folder. What the images say of user, environment and command is carried out.

    Args:
        home: Where images are kept.
        base: A Debian with Python, in place of the image that the Dockerfiles begin with. None: it is made.
        wheels: A folder of wheels that pip may take torch from, where its index has too large ones.
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
        made = ("--format", "docker", "--pull-never", "--file", f"docker/{name}.Dockerfile", "--tag", IMAGES[name])
        run(*self.buildah, "bud", *volume, *made, ".", quiet=True)

    def size(self, name: str) -> str:
        whole, base = (size_of(self.mounted(image)) for image in (IMAGES[name], BASE))
        return f"{whole}, of which {base} are the base's"

    def mounted(self, image: str) -> Path:
        container = run(*self.buildah, "from", "--pull-never", image, quiet=True).split()[-1]
        return Path(run(*self.buildah, "mount", container, quiet=True).split()[-1])

    def command(self, root: Path, name: str, mounts: Mounts, *words: str, entry: bool = True) -> list[str]:
        """What runs words in an image as that says: user, environment, folder, and entry point; all is read-only but
        /tmp and what is mounted."""
        said = json.loads(run(*self.buildah, "inspect", "--type", "image", IMAGES[name], quiet=True))["Docker"][
            "config"
        ]
        self.health = said.get("Healthcheck", {}).get("Test", [])[1:]
        steps = ['root=$1; shift; mount --bind "$root" "$root"']
        for folder, place in mounts.items():
            (root / place.strip("/")).mkdir(parents=True, exist_ok=True)
            steps.append(f'mount --bind "{folder}" "$root{place}"')
        steps.append('mount -o remount,bind,ro "$root"; mount -t tmpfs tmpfs "$root/tmp"')
        steps.append('mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"')
        # No exec: the kernel forgets --kill-child of a process that changes its user, as chroot does
        steps.append('cd "$root"; chroot "$@"; exit "$?"')
        inner = [f"--userspec={said['User']}", str(root), "env", "-i", f"--chdir={said['WorkingDir']}"]
        inner += [*said["Env"], f"LIT_AD_TOKEN={TOKEN}", *(said["Entrypoint"] if entry else []), *words]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*namespaces, "bash", "-ec", "\n".join(steps), "bash", str(root), *inner]

    def execute(self, name: str, mounts: Mounts, *words: str) -> str:
        return run(*self.command(self.mounted(IMAGES[name]), name, mounts, *words))

    @contextmanager
    def serving(self, mounts: Mounts, *words: str) -> Iterator[None]:
        self.root, self.mounts = self.mounted(IMAGES["serve"]), mounts
        if ctypes.CDLL(None).unshare(CLONE_NEWNET):  # a network of this check alone, in which no other service listens
            sys.exit("FAILED: this process may not have a network of its own")
        run("ip", "link", "set", "lo", "up")
        server = subprocess.Popen(self.command(self.root, "serve", mounts, *words))
        try:
            yield
        finally:
            server.kill()  # and with it, by --kill-child, what runs in it
            server.wait()

    def inside(self, *words: str) -> bool:
        command = self.command(self.root, "serve", self.mounts, *words, entry=False)
        return subprocess.run(command, check=False).returncode == 0

    def healthy(self) -> bool:
        return bool(self.health) and self.inside(*self.health[int(self.health[0] == "CMD") :])


def size_of(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", folder, quiet=True).split()[0])


def ask(method: str, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, bytes]:
    """Status and answer of the service."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request(method, path, body, {} if token is None else {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    return response.status, response.read()


def ends() -> bool:
    """Whether nobody listens any more, within ten seconds."""
    for _ in range(50):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", PORT)):
                return True
        time.sleep(0.2)
    return False


def check_service(engine: Docker | Chroot, model: Path, picture: Path, home: Path) -> None:
    """Let the image judge a picture, and see that nothing else is open."""
    journal = home / "journal"
    journal.mkdir()
    shutil.chown(journal, USER, USER)
    body, expected = picture.read_bytes(), Detector.load(model)(picture).score
    with engine.serving(
        {model.parent: "/models", journal: "/journal"}, f"/models/{model.name}", "--journal", "/journal"
    ):
        for _ in range(120):
            with suppress(OSError):  # not there yet
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
            "it refuses who has no token": ask("POST", "/detect", body)[0] == 401,
            f"it judges as Detector does ({score}, {expected})": status == 200
            and abs(score - expected) <= 1e-4 * expected,
            "it is not root": engine.inside("python", "-c", f"import os; assert os.getuid() == {USER}"),
            "its files cannot be written": not engine.inside("python", "-c", writes, "/opt/lit_ad"),
            "/tmp can": engine.inside("python", "-c", writes, "/tmp"),
            "it has no torch": engine.inside(
                "python", "-c", "import importlib.util as u; assert not u.find_spec('torch')"
            ),
            "the journal is written": (journal / "journal.sqlite").is_file(),
        }
    passed["it ends with its container"] = ends()
    for line, holds in passed.items():
        print("ok    " if holds else "FAILED", line)
    if not all(passed.values()):
        sys.exit(1)


def try_images(engine: Docker | Chroot, home: Path, model: Path | None, picture: Path | None) -> None:
    """Build both images, or the service's alone if there is a model, and try them."""
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
    parser.add_argument("--model", type=Path, help="an exported file to serve: the training image is left out")
    parser.add_argument("--picture", type=Path, help="to judge by it")
    parser.add_argument("--base", type=Path, help="without Docker: a Debian with Python, which debootstrap made before")
    parser.add_argument("--wheels", type=Path, help="without Docker: a folder with a wheel of torch")
    options = parser.parse_args()
    if (options.model is None) != (options.picture is None):
        parser.error("--model and --picture go together")
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
