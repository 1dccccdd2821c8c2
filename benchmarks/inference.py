"""Measure how fast lit_ad, the bare networks and anomalib judge an image and a folder. Prints a Markdown table.

    python benchmarks/inference.py --ckpt_path RUN/checkpoints/best.ckpt --images ../shared/data/hazelnut_toy/train/good
    python benchmarks/inference.py ... --without-anomalib      # installs nothing

RUN is a run of STFPM with ResNet-18 at 256. The images are enlarged to files of 1024x1024. The bare networks are the
upper limit: teacher and student on one normalised tensor, without distances, map or score.

Each measurement is a new process; all run in turn, for several rounds. A ratio is the median of the rounds' ratios.
Latency is the median time of single files (of single tensors for the bare networks). images/s is the speed for all
files one after the other, the better of batches of 1 and 4. Processor ms is the processor time of an image. It is the
only useful figure while other programs run; then also set OMP_NUM_THREADS=1, or threads wait for one another.

Exported files are made here, and int8 is calibrated on the same images. anomalib is installed in a temporary
environment and trained for one epoch. Its teacher has random weights, because timm's hub may be out of reach; this
makes no difference to the time. Its OpenVINOInferencer computes in float32, as ours does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

ANOMALIB = "anomalib==2.7.0 torch==2.14.1 torchvision==0.29.1 openvino onnx onnxscript"
BATCHES = (1, 4)
Result = dict[str, float]


def latency(judge: Callable[[Any], object], inputs: Iterable[Any], seconds: float) -> float:
    """Judge single inputs for some seconds. Return the median time of a call in ms."""
    times: list[float] = []
    for number, value in enumerate(cycle(inputs)):
        start = time.perf_counter()
        judge(value)
        times.append(time.perf_counter() - start)
        if number > 5 and sum(times[3:]) > seconds:
            return 1000 * median(times[3:])
    raise AssertionError


def rate(count: int, work: Callable[[], object], seconds: float) -> Result:
    """Repeat work on `count` images for some seconds. Return images/s and the processor ms of an image."""
    work()
    done, start, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        work()
        done += count
    cost = 1000 * (time.process_time() - processor) / done
    return {"images/s": done / (time.perf_counter() - start), "processor ms": cost}


def select_faster(rates: list[Result]) -> Result:
    """Return the result with more images/s."""
    return max(rates, key=lambda rate: rate["images/s"])


# The bare networks.


def make_networks(options: argparse.Namespace) -> Any:
    """Make a module of the run's teacher and student, which returns their features of images."""
    import torch

    from lit_ad.methods.base import Method

    method: Any = Method.load_from_checkpoint(options.ckpt_path).requires_grad_(False)

    class Networks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = method.teacher.model, method.student.model

        def forward(self, images: Any) -> list[Any]:
            taps = list(method.teacher.taps)
            features = [
                network.forward_intermediates(images, indices=taps, intermediates_only=True)
                for network in (self.teacher, self.student)
            ]
            return [level for levels in features for level in levels]

    return Networks().eval()


def run_bare(options: argparse.Namespace, load: Callable[[Path], Callable[[Any], object]]) -> Result:
    """Measure bare networks. `load` takes the folder of the files, and returns a function that runs a batch."""
    import numpy as np

    run = load(options.home)
    tensors = {n: np.random.default_rng(0).normal(size=(n, 3, options.size, options.size)) for n in BATCHES}
    inputs = {n: tensor.astype(np.float32) for n, tensor in tensors.items()}
    rates = [rate(n, lambda n=n: run(inputs[n]), options.seconds) for n in BATCHES]  # type: ignore[misc]
    return {"ms": latency(run, [inputs[1]], options.seconds), **select_faster(rates)}


def bare_pytorch(options: argparse.Namespace) -> Result:
    import torch

    def load(home: Path) -> Callable[[Any], object]:
        model = make_networks(options)

        def run(pixels: Any) -> object:
            with torch.inference_mode():
                return model(torch.from_numpy(pixels))

        return run

    return run_bare(options, load)


def bare_onnx(options: argparse.Namespace) -> Result:
    import onnxruntime

    def load(home: Path) -> Callable[[Any], object]:
        settings = onnxruntime.SessionOptions()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in lit_ad
        session = onnxruntime.InferenceSession(home / "bare.onnx", settings, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"images": pixels})

    return run_bare(options, load)


def bare_openvino(options: argparse.Namespace, file: str = "bare.onnx") -> Result:
    import openvino

    def load(home: Path) -> Callable[[Any], object]:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(home / file, "CPU", settings)
        request = compiled.create_infer_request()
        return lambda pixels: request.infer({"images": pixels})

    return run_bare(options, load)


# lit_ad.


def run_detector(options: argparse.Namespace, file: str) -> Result:
    from lit_ad import Detector

    detector = Detector.load(options.ckpt_path if file == "checkpoint" else options.home / file)
    files: list[Any] = list_images(options.home)

    def judge_all(size: int) -> None:
        detections = detector.stream(files, batch_size=size)
        assert sum(detection.anomalous is not None for detection in detections) == len(files)

    rates = [rate(len(files), lambda n=n: judge_all(n), options.seconds) for n in BATCHES]  # type: ignore[misc]
    return {"ms": latency(lambda path: detector(path).anomalous, files, options.seconds), **select_faster(rates)}


def read_images(options: argparse.Namespace) -> Result:
    """Read files and make the network's inputs, on one core."""
    from lit_ad import Detector
    from lit_ad.image.pixels import read_image

    view, files = Detector.load(options.ckpt_path).card.view, list_images(options.home)
    return rate(len(files), lambda: [view(read_image(path)) for path in files], options.seconds)


def predict(options: argparse.Namespace) -> Result:
    """Run the loop of `lit-ad predict` from its first batch to its last. It writes scores.csv, maps and heatmaps."""
    import lightning as L

    from lit_ad.data import AnomalyDataModule
    from lit_ad.data.sources.images import Images
    from lit_ad.evaluation import Evaluation, Heatmaps, Predictions
    from lit_ad.methods.base import Method

    model: Any = Method.load_from_checkpoint(options.ckpt_path)
    source = Images(options.home / "images")
    data = AnomalyDataModule(source, model.view, batch_size=BATCHES[-1], predict_path=options.home / "images")
    callbacks = [Evaluation(sinks=[Predictions(maps=options.pictures), Heatmaps(enabled=options.pictures)])]
    with tempfile.TemporaryDirectory() as home:
        clock = make_clock(L)
        trainer = L.Trainer(accelerator="cpu", callbacks=[*callbacks, clock], logger=False, default_root_dir=home)
        for _ in range(2):  # the first run warms up
            trainer.predict(model, data, return_predictions=False)
    return clock.result(len(list_images(options.home)))


def predict_exported(options: argparse.Namespace, file: str) -> Result:
    """Run the loop of `lit-ad predict FILE` for an exported file. It writes the same files as `predict`."""
    from lit_ad import Detector
    from lit_ad.commands.predict import judge_all
    from lit_ad.data.sources.images import Images
    from lit_ad.evaluation import Heatmaps, Predictions
    from lit_ad.evaluation.sinks.sink import Stage

    detector, folder = Detector.load(options.home / file), options.home / "images"
    samples, decision = Images(folder).samples(), detector.card.decision

    def judge_folder() -> None:
        with tempfile.TemporaryDirectory() as home:
            stage = Stage(Path(home), samples, decision, detector.card.method, predicting=True, folder=folder, done={})
            judge_all(detector, stage, [Heatmaps(enabled=options.pictures), Predictions(maps=options.pictures)])

    return rate(len(samples), judge_folder, options.seconds)


def make_clock(lightning: Any) -> Any:
    """Make a callback for `lightning` or `lightning.pytorch`: their classes of callbacks differ."""

    class Clock(lightning.Callback):  # type: ignore[name-defined,misc]
        """Measures the time from the start of predicting to its end."""

        def on_predict_start(self, *_: Any) -> None:
            self.start = time.perf_counter(), time.process_time()

        def on_predict_end(self, *_: Any) -> None:
            self.wall, self.processor = time.perf_counter() - self.start[0], time.process_time() - self.start[1]

        def result(self, count: int) -> Result:
            return {"images/s": count / self.wall, "processor ms": 1000 * self.processor / count}

    return Clock()


# anomalib, in its environment.


def anomalib_model(options: argparse.Namespace) -> Any:
    import timm

    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False})
    from anomalib.models import Stfpm

    return Stfpm(backbone="resnet18", pre_processor=Stfpm.configure_pre_processor((options.size, options.size)))


def prepare_anomalib(options: argparse.Namespace) -> Result:
    from anomalib.data import Folder
    from anomalib.engine import Engine

    home = options.home / "anomalib"
    images = {f"{role}_dir": "images" for role in ("normal", "abnormal", "normal_test")}  # only the time matters
    splits = {"test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
    data = Folder("images", root=options.home, **images, **splits, train_batch_size=8, num_workers=1)
    model = anomalib_model(options)
    engine = Engine(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=home, limit_val_batches=0)
    engine.fit(model, datamodule=data)
    for kind in ("torch", "openvino"):
        engine.export(model, kind, home)
    engine.trainer.save_checkpoint(home / "model.ckpt")
    return {}


def run_inferencer(options: argparse.Namespace, kind: str) -> Result:
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    os.environ["TRUST_REMOTE_CODE"] = "1"
    os.chdir(options.home)  # OpenVINO's cache is written to the current folder
    (file,) = (options.home / "anomalib").rglob("model.xml" if kind == "openvino" else "model.pt")
    single = {"INFERENCE_PRECISION_HINT": "f32"}  # as in lit_ad; the default is bfloat16 if the processor has it
    judge = (OpenVINOInferencer(file, "CPU", single) if kind == "openvino" else TorchInferencer(file, "cpu")).predict
    files = list_images(options.home)
    rates = rate(len(files), lambda: [judge(path) for path in files], options.seconds)
    return {"ms": latency(judge, files, options.seconds), **rates}


def run_engine(options: argparse.Namespace) -> Result:
    """Run Engine.predict as users call it. It writes a picture of each image, as `lit-ad predict` does."""
    import lightning.pytorch as L
    from anomalib.engine import Engine

    clock, checkpoint = make_clock(L), options.home / "anomalib/model.ckpt"
    with tempfile.TemporaryDirectory() as home:
        engine = Engine(accelerator="cpu", callbacks=[clock], logger=False, default_root_dir=home)
        model = anomalib_model(options)
        for _ in range(2):
            engine.predict(model, data_path=options.home / "images", ckpt_path=checkpoint, return_predictions=False)
    return clock.result(len(list_images(options.home)))


# All measurements: name in the table, function, and the bare networks to compare with.

KINDS: dict[str, tuple[str, Callable[[argparse.Namespace], Result], str]] = {
    "bare-pytorch": ("bare networks, PyTorch", bare_pytorch, "bare-pytorch"),
    "bare-onnx": ("bare networks, ONNX Runtime", bare_onnx, "bare-onnx"),
    "bare-openvino": ("bare networks, OpenVINO", bare_openvino, "bare-openvino"),
    "bare-int8": ("bare networks, OpenVINO int8", lambda o: bare_openvino(o, "bare-int8.xml"), "bare-int8"),
    "reading": ("decoding and resizing alone", read_images, "reading"),
    "pytorch": ("Detector, PyTorch", lambda o: run_detector(o, "checkpoint"), "bare-pytorch"),
    "onnx": ("Detector, ONNX Runtime", lambda o: run_detector(o, "model.onnx"), "bare-onnx"),
    "openvino": ("Detector, OpenVINO", lambda o: run_detector(o, "model.xml"), "bare-openvino"),
    "int8": ("Detector, OpenVINO int8", lambda o: run_detector(o, "model-int8.xml"), "bare-int8"),
    "predict": ("lit-ad predict", predict, "bare-pytorch"),
    "predict-onnx": ("lit-ad predict, ONNX Runtime", lambda o: predict_exported(o, "model.onnx"), "bare-onnx"),
    "predict-openvino": ("lit-ad predict, OpenVINO", lambda o: predict_exported(o, "model.xml"), "bare-openvino"),
    "predict-int8": ("lit-ad predict, OpenVINO int8", lambda o: predict_exported(o, "model-int8.xml"), "bare-int8"),
    "anomalib-torch": ("anomalib's TorchInferencer", lambda o: run_inferencer(o, "torch"), "bare-pytorch"),
    "anomalib-openvino": ("anomalib's OpenVINOInferencer", lambda o: run_inferencer(o, "openvino"), "bare-openvino"),
    "anomalib-engine": ("anomalib's Engine.predict", run_engine, "bare-pytorch"),
}
PEERS = {"torch": "anomalib-torch", "openvino": "anomalib-openvino", "engine": "anomalib-engine"}


def list_images(home: Path) -> list[Path]:
    return sorted((home / "images").iterdir())


def prepare(options: argparse.Namespace) -> None:
    """Write the files: images, exported detectors and bare networks."""
    import nncf
    import numpy as np
    import openvino
    import torch
    from PIL import Image

    from lit_ad.deploy.export import export
    from lit_ad.methods.base import Method

    (options.home / "images").mkdir()
    sources = sorted(path for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    for number, path in enumerate(islice(cycle(sources), options.count)):
        enlarged = Image.open(path).convert("RGB").resize((options.side, options.side), Image.Resampling.BICUBIC)
        enlarged.save(options.home / f"images/{number:03d}{options.suffix}", quality=95)
    images, method = list_images(options.home), Method.load_from_checkpoint(options.ckpt_path)
    export(method, options.home / "model.onnx", "onnx")
    export(method, options.home / "model.xml", "openvino")
    export(method, options.home / "model-int8.xml", "openvino", "int8", images)
    model, file = make_networks(options), options.home / "bare.onnx"
    example, batch = torch.zeros(2, 3, options.size, options.size), torch.export.Dim("batch")
    torch.onnx.export(
        *(model, (example,), file),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=["images"],
        dynamic_shapes={"images": {0: batch}},
    )
    inputs = [np.random.default_rng(i).normal(size=example.shape[1:]).astype(np.float32)[None] for i in range(32)]
    calibration, preset = nncf.Dataset(inputs), nncf.QuantizationPreset.MIXED
    quantized = nncf.quantize(openvino.Core().read_model(file), calibration, preset=preset)
    openvino.save_model(quantized, options.home / "bare-int8.xml", compress_to_fp16=False)


def install(home: Path) -> str:
    """Make a temporary environment with anomalib. Return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", *ANOMALIB.split()], check=True)
    return str(home / "bin/python")


def measure(kind: str, python: str, options: argparse.Namespace) -> Result:
    """Run a measurement of KINDS in a new process."""
    command = [python, __file__, *sys.argv[1:], "--only", kind, "--home", str(options.home)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def print_table(results: dict[str, list[Result]]) -> None:
    """Print the results of all rounds, by kind, as a Markdown table of medians and ratios."""
    peers = {name: kind for name, kind in PEERS.items() if kind in results}
    heads = ["", "ms", "images/s", "processor ms", "of the bare networks", *[f"images/s of {name}" for name in peers]]
    heads += ["ms of torch"] * ("torch" in peers)
    print("| " + " | ".join(heads) + " |\n| --- |" + " ---: |" * (len(heads) - 1))

    def ratio(kind: str, other: str, key: str) -> str:
        if other not in results:
            return ""
        pairs = zip(results[kind], results[other], strict=True)
        return f"{median(a[key] / b[key] for a, b in pairs):.2f}" if key in results[kind][0] else ""

    for kind, rounds in results.items():
        name, _, bare = KINDS[kind]
        cells = [name, f"{median(r['ms'] for r in rounds):.1f}" if "ms" in rounds[0] else ""]
        cells += [f"{median(r[key] for r in rounds):.1f}" for key in ("images/s", "processor ms")]
        cells += [ratio(kind, bare, "images/s")]
        cells += [ratio(kind, peer, "images/s") for peer in peers.values()]
        cells += [ratio(kind, PEERS["torch"], "ms")] * ("torch" in peers)
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=lambda path: Path(path).absolute(), required=True)
    parser.add_argument("--images", type=lambda path: Path(path).absolute(), required=True, help="a folder of images")
    parser.add_argument("--count", type=int, default=32, help="number of files")
    parser.add_argument("--side", type=int, default=1024, help="side of the files in pixels")
    parser.add_argument("--suffix", default=".jpg", help="suffix of the files; .jpg has quality 95")
    parser.add_argument("--size", type=int, default=256, help="side of the networks' input in pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="predict writes tables only")
    parser.add_argument("--anomalib-python", help="the Python of an environment with anomalib; then none is installed")
    parser.add_argument("--without-anomalib", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "prepare-anomalib":
        print(json.dumps(prepare_anomalib(options)))
        return
    if options.only:
        print(json.dumps(KINDS[options.only][1](options)))
        return
    os.environ |= {"CI": "true", "NNCF_CI": "1"}  # without this, OpenVINO's converter and NNCF send usage data
    with tempfile.TemporaryDirectory() as home:
        options.home = Path(home)
        kinds = [kind for kind in options.kinds if not (options.without_anomalib and "anomalib" in kind)]
        prepare(options)
        theirs = sys.executable
        if any("anomalib" in kind for kind in kinds):
            theirs = options.anomalib_python or install(Path(home) / "environment")
            measure("prepare-anomalib", theirs, options)
        results: dict[str, list[Result]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind in kinds:
                results[kind].append(measure(kind, theirs if "anomalib" in kind else sys.executable, options))
                print(kind, results[kind][-1], file=sys.stderr)
    print_table(results)


if __name__ == "__main__":
    main()
