"""Build and test the package as PyPI would have it: `make package`, in about three minutes.

Build wheel and sdist into dist/, check both, and train with the wheel alone. Then judge images with the exported file
in a bare environment: NumPy, Pillow, ONNX Runtime, and the wheel without its dependencies. Exit code: 0 if all works.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
NEEDED = (
    "lit_ad/configs/stfpm.yaml",
    "lit_ad/py.typed",
    "lit_ad/deploy/page.html",
    "lit_ad/evaluation/report/page.html",
)
JUDGE = """
import json, sys
from importlib.util import find_spec
from lit_ad import Detector
detector = Detector.load(sys.argv[1])
print(json.dumps({
    "scores": [detector(image).score for image in sys.argv[2:]],
    "extra": [name for name in ("torch", "lightning", "cv2") if find_spec(name)],
}))
"""


def run(*command: str | Path, folder: Path, path: Path | None = None) -> str:
    """Print a command, run it in a folder with `path` as PYTHONPATH, and return its output. Exit if it fails."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nFAILED: {' '.join(map(str, command))}")
    return done.stdout


def build(home: Path) -> Path:
    """Build wheel and sdist into dist/ and check them. Return the wheel."""
    for old in DIST.glob("lit_ad-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", DIST, ".", folder=ROOT)
    print(run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.glob("lit_ad-*")), folder=home))
    (wheel,), (sdist,) = DIST.glob("lit_ad-*.whl"), DIST.glob("lit_ad-*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    configs = {f"lit_ad/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "configs").rglob("*.*")}
    missing = ({*NEEDED, *configs} - set(names)) | ({"docs/training.md", "configs/stfpm.yaml", "Makefile"} - sources)
    if missing:
        sys.exit(f"FAILED: missing in the wheel or the sdist: {', '.join(sorted(missing))}")
    if links := re.findall(r"\]\((?!https?://)[^)]*\)", metadata):
        sys.exit(f"FAILED: relative links, which do not work on PyPI: {', '.join(links)}")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB; {len(configs)} of configs/")
    return wheel


def train(wheel: Path, home: Path) -> tuple[Path, list[Path]]:
    """Train the demo with the wheel's files alone, and export it. Return the exported file and two images."""
    unpacked = home / "unpacked"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--target", unpacked, wheel),
        folder=home,
    )
    where = run(sys.executable, "-c", "import lit_ad; print(lit_ad.__file__)", folder=home, path=unpacked)
    if not where.startswith(str(unpacked)):
        sys.exit(f"FAILED: {where} was imported instead of the wheel's files")
    fit = ("fit", "--config", "demo", "--trainer.max_epochs", "1", "--trainer.default_root_dir", "run")
    run(sys.executable, "-m", "lit_ad", *fit, folder=home, path=unpacked)
    run(sys.executable, "-m", "lit_ad", "export", "run", "--format", "onnx", folder=home, path=unpacked)
    (exported,) = (home / "run/export").glob("*.onnx")
    return exported, sorted((home / "run/heatmaps").rglob("*.jpg"))[:2]


def judge_bare(wheel: Path, home: Path, exported: Path, images: list[Path]) -> None:
    """Judge images in a bare environment, and compare the scores with those of this environment."""
    bare = home / "bare"
    venv.create(bare, with_pip=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "--quiet", "numpy", "pillow", "onnxruntime", folder=home)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, folder=home)
    result, expected = (
        json.loads(run(program, "-c", JUDGE, exported, *images, folder=home, path=path))
        for program, path in ((python, None), (sys.executable, home / "unpacked"))
    )
    if result["extra"]:
        sys.exit(f"FAILED: {', '.join(result['extra'])} should not be in the bare environment")
    if any(abs(a - b) > 1e-4 * abs(b) for a, b in zip(result["scores"], expected["scores"], strict=True)):
        sys.exit(f"FAILED: scores {result['scores']} in the bare environment, {expected['scores']} in this one")
    print(f"scores in the bare environment {result['scores']}, in this one {expected['scores']}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        wheel = build(home)
        judge_bare(wheel, home, *train(wheel, home))


if __name__ == "__main__":
    main()
