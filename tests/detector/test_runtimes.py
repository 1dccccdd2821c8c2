"""Exported files where nothing else is, from many threads, and files that are none of ours."""

import shutil
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

import lit_ad
from lit_ad import Detector
from lit_ad.deploy.example import example
from lit_ad.deploy.export import SUFFIX
from lit_ad.detector import runtimes
from lit_ad.detector.card import Card
from lit_ad.detector.runtimes import module_on, onnx_providers, torch_for_callers
from lit_ad.errors import UserError
from lit_ad.methods import torch_runtime
from tests.deploy.test_export import export_every_format, pictures

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def files(small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """STFPM in every format and as a checkpoint, and an image beside them."""
    home = tmp_path_factory.mktemp("exported")
    method, exported = export_every_format(small_models, home)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(home / "model.ckpt")
    return {**exported, "checkpoint": home / "model.ckpt"}


@pytest.mark.parametrize("format", SUFFIX)
def test_calls_from_many_threads(format: str, files: dict[str, Path]) -> None:
    detector, images = Detector.load(files[format]), pictures(8)
    alone = [detector(image).score for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert [found.score for found in pool.map(detector, images)] == alone
    for size in (1, 3):  # each of whose threads computes with a part of the cores, and so sums in another order
        streamed = list(detector.stream(images * 4, batch_size=size))
        assert [found.score for found in streamed] == pytest.approx(alone * 4, rel=1e-5)


JUDGED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lit_ad import Detector

detector, image = Detector.load(sys.argv[1]), Path(sys.argv[2])
with ThreadPoolExecutor(8) as pool:
    scores = [found.score for found in pool.map(detector, [image] * 16)]
scores += [found.score for found in detector.stream([image] * 16)]
assert max(scores) - min(scores) < 1e-5 * max(scores), scores
print(len(scores))
"""


@pytest.mark.slow  # half an hour on two cores
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("format", [*SUFFIX, "checkpoint"])
def test_no_process_hangs_at_its_first_images(format: str, files: dict[str, Path]) -> None:
    """Of 200 that judge from many threads at once, right after loading; before, 6 of OpenVINO's did."""
    for _ in range(200):
        command = [sys.executable, "-c", JUDGED, files[format], files["onnx"].with_name("image.png")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.stdout == "32\n", done.stderr


@pytest.mark.parametrize(("format", "networks"), [("onnx", 2), ("openvino", 2), ("torch", 1), ("checkpoint", 1)])
def test_every_network_runs_once_before_it_is_shared(
    format: str, networks: int, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread that loads it; ONNX Runtime and OpenVINO have another one for several callers."""
    inputs: list[tuple[str, tuple[int, ...]]] = []

    def run_once(run: Any, card: Card) -> Any:
        def noting(pixels: Any) -> Any:
            inputs.append((threading.current_thread().name, pixels.shape))
            return run(pixels)

        runtimes_run_once(noting, card)
        return run

    runtimes_run_once = runtimes.run_once
    for module in (runtimes, torch_runtime):
        monkeypatch.setattr(module, "run_once", run_once)
    detector = Detector.load(files[format])
    once = (threading.current_thread().name, (1, 3, 64, 64))
    assert inputs == [once]
    assert detector.shared is detector.shared
    assert inputs == [once] * networks


def test_signals_are_heard_when_several_files_were_loaded(files: dict[str, Path]) -> None:
    """OpenVINO would leave a stack for signals that is no more, and Ctrl-C would be a segmentation fault."""
    code = """
        import signal, sys
        from lit_ad import Detector

        one, two = Detector.load(sys.argv[1]), Detector.load(sys.argv[1])
        del one
        del two
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("heard")
    """
    done = subprocess.run([sys.executable, "-c", dedent(code), files["openvino"]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_a_stream_leaves_the_threads_of_torch_as_they_are(files: dict[str, Path]) -> None:
    detector, before = Detector.load(files["torch"]), torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        seen: list[int] = []
        shared = torch_for_callers(
            lambda pixels: seen.append(torch.get_num_threads()) or detector.network(pixels), 2, "cpu"
        )
        pixels = np.zeros((1, 3, 64, 64), np.uint8)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(shared, [pixels] * 4))
            assert set(seen) == {2}
        list(detector.stream(pictures(4)))
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (5, 5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("format", SUFFIX)
def test_a_folder_of_any_name(format: str, files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "r\udcfcn"
    folder.mkdir()
    for file in files[format].parent.glob(f"{files[format].stem}.*"):
        shutil.copy(file, folder)
    image = np.zeros((64, 64, 3), np.uint8)
    renamed, detector = (Detector.load(file) for file in (folder / files[format].name, files[format]))
    assert renamed(image).score == detector(image).score
    assert renamed.shared(image).score == pytest.approx(detector(image).score)


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_what_is_no_exported_file(suffix: str, tmp_path: Path) -> None:
    for content in ("nothing", ""):
        (tmp_path / f"x{suffix}").write_text(content)
        with pytest.raises(
            UserError,
            match=rf"x{suffix} (was not exported by lit_ad, or is damaged|is damaged|needs its weights, x.bin)",
        ):
            Detector.load(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.bin", "model.pt2"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused(name: str, place: float, files: dict[str, Path], tmp_path: Path) -> None:
    for suffix in {Path(name).suffix, ".bin", ".xml"} if name[-4:] in (".xml", ".bin") else {Path(name).suffix}:
        shutil.copy(files["onnx"].with_name(f"model{suffix}"), tmp_path)
    suffix = ".xml" if name == "model.bin" else Path(name).suffix
    Detector.load(tmp_path / f"model{suffix}")
    content = bytearray((tmp_path / name).read_bytes())
    at = int(place * len(content))
    content[at] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.* is damaged"):
        Detector.load(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("built", [True, False])
def test_what_onnx_runtime_calls_a_device(built: bool) -> None:
    """Of a build with CUDA, which need not be here, only the list of providers is asked."""
    providers = ["CUDAExecutionProvider"] * built + ["CPUExecutionProvider"]
    build = SimpleNamespace(get_available_providers=lambda: providers)
    assert onnx_providers(build, "cpu") == ["CPUExecutionProvider"]
    for device, number in (("cuda", 0), ("cuda:2", 2)):
        if built:
            cuda = ("CUDAExecutionProvider", {"device_id": number})
            assert onnx_providers(build, device) == [cuda, "CPUExecutionProvider"]
        else:
            with pytest.raises(UserError, match=r"pip install onnxruntime-gpu"):
                onnx_providers(build, device)
    for device in ("warp", "cuda:x", "warp:1"):
        with pytest.raises(UserError, match=device):
            onnx_providers(build, device)


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_there(format: str, device: str, files: dict[str, Path]) -> None:
    if format == "onnx" and "CUDAExecutionProvider" in onnxruntime.get_available_providers() and device == "cuda:99":
        pytest.skip("this ONNX Runtime looks for the GPU itself")
    with pytest.raises(UserError, match=rf"there is no device '{device}' for .* on this machine, only (?i:cpu)"):
        Detector.load(files[format], device=device)
    if format == "openvino":
        assert Detector.load(files[format], device="AUTO")(pictures(1)[0]).score > 0


def test_half_of_an_openvino_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(files["openvino"], tmp_path)
    with pytest.raises(UserError, match=r"model\.xml needs its weights, model\.bin, beside it: copy both files"):
        Detector.load(tmp_path / "model.xml")


def test_another_ones_onnx(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"was not exported by lit_ad.*no digest"):
        Detector.load(tmp_path / "x.onnx")


# In seconds of the processor, which other processes do not lengthen.
TIMED = """
import sys, time
start = time.process_time()
from lit_ad import Detector
imported = time.process_time()
detector = Detector.load(sys.argv[1])
loaded = time.process_time()
print(imported - start, loaded - imported, detector(sys.argv[2]).score)
print(sorted({"torch", "lightning", "timm", "albumentations", "cv2", "scipy"} & set(sys.modules)))
"""


@pytest.mark.slow  # installs from a package index
def test_where_nothing_but_the_runtime_is(files: dict[str, Path], tmp_path: Path) -> None:
    """NumPy, Pillow and ONNX Runtime are enough, and both importing and loading take less than a second."""
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "pillow", "onnxruntime"], check=True)
    package, image = Path(lit_ad.__file__).parents[1], files["onnx"].with_name("image.png")
    found = []
    for _ in range(3):  # the first one compiles the packages
        done = subprocess.run(
            [python, "-c", TIMED, files["onnx"], image],
            env={"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        imported, loaded, score = map(float, done.stdout.splitlines()[0].split())
        assert done.stdout.splitlines()[1] == "[]"
        assert score == pytest.approx(Detector.load(files["onnx"])(image).score, rel=1e-5)
        found.append((imported, loaded))
    imported, loaded = np.min(found, axis=0)
    assert imported < 1 and loaded < 1
    (files["onnx"].with_name("example.py")).write_text(example(files["onnx"], Detector.load(files["onnx"]).card))
    done = subprocess.run(
        [python, files["onnx"].with_name("example.py"), image], env={}, capture_output=True, text=True, check=True
    )
    assert f"score {score:.4g}"[:-1] in done.stdout


def test_a_program_runs_on_another_device_than_it_was_exported_on(files: dict[str, Path]) -> None:
    """Its operations name the CPU, and refuse tensors on a GPU. Of "meta", every machine has one."""
    program = torch.export.load(files["torch"])
    assert devices_named(program.module()) == {"cpu"}
    module = module_on(program, torch.device("meta"))
    assert devices_named(module) == {"meta"}
    scores, maps = module(torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="meta"))
    assert scores.device.type == maps.device.type == "meta" and scores.shape == (2,)


def devices_named(module: Any) -> set[str]:
    return {str(node.kwargs["device"]) for node in module.graph.nodes if node.kwargs.get("device") is not None}
