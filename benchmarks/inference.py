"""How fast an image and a folder are judged: ours, the bare networks, and anomalib's. Prints a Markdown table.

    python benchmarks/inference.py --ckpt_path RUN/checkpoints/best.ckpt --images ../shared/data/hazelnut_toy/train/good
    python benchmarks/inference.py ... --without-anomalib      # installs nothing

RUN is one of STFPM with ResNet-18 at 256. The images are enlarged to files of 1024x1024. The bare networks are teacher
and student on one tensor that is normalised already, without distances, map or score: nothing that uses them is faster
by itself. Every measurement is a process of its own, all in turn, several rounds; a ratio is the median of the rounds'
ratios. Latency is the median of single files (of single tensors for the bare networks); images/s are those of all files
in a row, the better of batches of 1 and of 4, and beside them the processor's ms an image: the only figure that means
something while other programs run (then set OMP_NUM_THREADS=1, or threads wait for threads). Exported files are made
here: int8 is calibrated on the same images. anomalib goes into a temporary environment and is trained for one epoch;
its teacher is random because timm's hub may be out of reach, which costs nothing in time. Its OpenVINOInferencer
computes in float32 here, as ours does.
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
    """The median of single calls, in ms."""
    times: list[float] = []
    for number, one in enumerate(cycle(inputs)):
        start = time.perf_counter()
        judge(one)
        times.append(time.perf_counter() - start)
        if number > 5 and sum(times[3:]) > seconds:
            return 1000 * median(times[3:])
    raise AssertionError


def rate(count: int, work: Callable[[], object], seconds: float) -> Result:
    """Of work on `count` images: images per second, and processor ms of an image, threads included."""
    work()
    done, start, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        work()
        done += count
    cost = 1000 * (time.process_time() - processor) / done
    return {"images/s": done / (time.perf_counter() - start), "processor ms": cost}


def better(rates: list[Result]) -> Result:
    """Of batches, the faster."""
    return max(rates, key=lambda rate: rate["images/s"])


# The bare networks.


def networks(options: argparse.Namespace) -> Any:
    import torch

    from lit_ad.methods.base import Method

    method: Any = Method.load_from_checkpoint(options.ckpt_path).requires_grad_(False)

    class Networks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = method.teacher.model, method.student.model

        def forward(self, images: Any) -> list[Any]:
            taps = list(method.teacher.taps)
            found = [
                network.forward_intermediates(images, indices=taps, intermediates_only=True)
                for network in (self.teacher, self.student)
            ]
            return [level for levels in found for level in levels]

    return Networks().eval()


def bare(options: argparse.Namespace, run_of: Callable[[Path], Callable[[Any], object]]) -> Result:
    import numpy as np

    run = run_of(options.home)
    tensors = {n: np.random.default_rng(0).normal(size=(n, 3, options.size, options.size)) for n in BATCHES}
    inputs = {n: tensor.astype(np.float32) for n, tensor in tensors.items()}
    rates = [rate(n, lambda n=n: run(inputs[n]), options.seconds) for n in BATCHES]  # type: ignore[misc]
    return {"ms": latency(run, [inputs[1]], options.seconds), **better(rates)}


def bare_pytorch(options: argparse.Namespace) -> Result:
    import torch

    def run_of(home: Path) -> Callable[[Any], object]:
        model = networks(options)

        def run(pixels: Any) -> object:
            with torch.inference_mode():
                return model(torch.from_numpy(pixels))

        return run

    return bare(options, run_of)


def bare_onnx(options: argparse.Namespace) -> Result:
    import onnxruntime

    def run_of(home: Path) -> Callable[[Any], object]:
        settings = onnxruntime.SessionOptions()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as ours
        session = onnxruntime.InferenceSession(home / "bare.onnx", settings, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"images": pixels})

    return bare(options, run_of)


def bare_openvino(options: argparse.Namespace, file: str = "bare.onnx") -> Result:
    import openvino

    def run_of(home: Path) -> Callable[[Any], object]:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(home / file, "CPU", settings)
        request = compiled.create_infer_request()
        return lambda pixels: request.infer({"images": pixels})

    return bare(options, run_of)


# Ours.


def ours(options: argparse.Namespace, file: str) -> Result:
    from lit_ad import Detector

    detector = Detector.load(options.ckpt_path if file == "checkpoint" else options.home / file)
    files: list[Any] = images_in(options.home)

    def folder(size: int) -> None:
        assert sum(found.anomalous is not None for found in detector.stream(files, batch_size=size)) == len(files)

    rates = [rate(len(files), lambda n=n: folder(n), options.seconds) for n in BATCHES]  # type: ignore[misc]
    return {"ms": latency(lambda path: detector(path).anomalous, files, options.seconds), **better(rates)}


def reading(options: argparse.Namespace) -> Result:
    """From files to what the network sees of them, on one core."""
    from lit_ad import Detector
    from lit_ad.image.pixels import read_image

    view, files = Detector.load(options.ckpt_path).card.view, images_in(options.home)
    return rate(len(files), lambda: [view(read_image(path)) for path in files], options.seconds)


def predict(options: argparse.Namespace) -> Result:
    """What `lit-ad predict` runs, from its first batch to its last: scores.csv, maps and heatmaps are written."""
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
        clock = clock_of(L)
        trainer = L.Trainer(accelerator="cpu", callbacks=[*callbacks, clock], logger=False, default_root_dir=home)
        for _ in range(2):  # the first one warms up
            trainer.predict(model, data, return_predictions=False)
    return clock.result(len(images_in(options.home)))


def clock_of(lightning: Any) -> Any:
    class Clock(lightning.Callback):  # type: ignore[name-defined,misc]
        """From the start of predicting to its end."""

        def on_predict_start(self, *_: Any) -> None:
            self.start = time.perf_counter(), time.process_time()

        def on_predict_end(self, *_: Any) -> None:
            self.wall, self.processor = time.perf_counter() - self.start[0], time.process_time() - self.start[1]

        def result(self, count: int) -> Result:
            return {"images/s": count / self.wall, "processor ms": 1000 * self.processor / count}

    return Clock()


# anomalib's, in its environment.


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
    images = {f"{role}_dir": "images" for role in ("normal", "abnormal", "normal_test")}  # what it learns is no matter
    splits = {"test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
    data = Folder("images", root=options.home, **images, **splits, train_batch_size=8, num_workers=1)
    model = anomalib_model(options)
    engine = Engine(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=home, limit_val_batches=0)
    engine.fit(model, datamodule=data)
    for kind in ("torch", "openvino"):
        engine.export(model, kind, home)
    engine.trainer.save_checkpoint(home / "model.ckpt")
    return {}


def inferencer(options: argparse.Namespace, kind: str) -> Result:
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    os.environ["TRUST_REMOTE_CODE"] = "1"
    os.chdir(options.home)  # where it keeps a cache
    (file,) = (options.home / "anomalib").rglob("model.xml" if kind == "openvino" else "model.pt")
    single = {"INFERENCE_PRECISION_HINT": "f32"}  # as ours; by itself OpenVINO takes bfloat16 where the processor can
    judge = (OpenVINOInferencer(file, "CPU", single) if kind == "openvino" else TorchInferencer(file, "cpu")).predict
    files = images_in(options.home)
    rates = rate(len(files), lambda: [judge(path) for path in files], options.seconds)
    return {"ms": latency(judge, files, options.seconds), **rates}


def engine_predict(options: argparse.Namespace) -> Result:
    """As its users call it; it writes a picture of each image, as `lit-ad predict` does."""
    import lightning.pytorch as L
    from anomalib.engine import Engine

    clock, checkpoint = clock_of(L), options.home / "anomalib/model.ckpt"
    with tempfile.TemporaryDirectory() as home:
        engine = Engine(accelerator="cpu", callbacks=[clock], logger=False, default_root_dir=home)
        model = anomalib_model(options)
        for _ in range(2):
            engine.predict(model, data_path=options.home / "images", ckpt_path=checkpoint, return_predictions=False)
    return clock.result(len(images_in(options.home)))


# All of them.

KINDS: dict[str, tuple[str, Callable[[argparse.Namespace], Result], str]] = {  # name, measurement, whose ceiling
    "bare-pytorch": ("bare networks, PyTorch", bare_pytorch, "bare-pytorch"),
    "bare-onnx": ("bare networks, ONNX Runtime", bare_onnx, "bare-onnx"),
    "bare-openvino": ("bare networks, OpenVINO", bare_openvino, "bare-openvino"),
    "bare-int8": ("bare networks, OpenVINO int8", lambda o: bare_openvino(o, "bare-int8.xml"), "bare-int8"),
    "reading": ("decoding and resizing alone", reading, "reading"),
    "pytorch": ("Detector, PyTorch", lambda o: ours(o, "checkpoint"), "bare-pytorch"),
    "onnx": ("Detector, ONNX Runtime", lambda o: ours(o, "model.onnx"), "bare-onnx"),
    "openvino": ("Detector, OpenVINO", lambda o: ours(o, "model.xml"), "bare-openvino"),
    "int8": ("Detector, OpenVINO int8", lambda o: ours(o, "model-int8.xml"), "bare-int8"),
    "predict": ("lit-ad predict", predict, "bare-pytorch"),
    "anomalib-torch": ("anomalib's TorchInferencer", lambda o: inferencer(o, "torch"), "bare-pytorch"),
    "anomalib-openvino": ("anomalib's OpenVINOInferencer", lambda o: inferencer(o, "openvino"), "bare-openvino"),
    "anomalib-engine": ("anomalib's Engine.predict", engine_predict, "bare-pytorch"),
}
PEERS = {"torch": "anomalib-torch", "openvino": "anomalib-openvino", "engine": "anomalib-engine"}


def images_in(home: Path) -> list[Path]:
    return sorted((home / "images").iterdir())


def prepare(options: argparse.Namespace) -> None:
    """The files: images, exported detectors, bare networks."""
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
    images, method = images_in(options.home), Method.load_from_checkpoint(options.ckpt_path)
    export(method, options.home / "model.onnx", "onnx")
    export(method, options.home / "model.xml", "openvino")
    export(method, options.home / "model-int8.xml", "openvino", "int8", images)
    model, file = networks(options), options.home / "bare.onnx"
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
    """A throw-away environment with anomalib; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", *ANOMALIB.split()], check=True)
    return str(home / "bin/python")


def measured(kind: str, python: str, options: argparse.Namespace) -> Result:
    command = [python, __file__, *sys.argv[1:], "--only", kind, "--home", str(options.home)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(found: dict[str, list[Result]]) -> None:
    peers = {name: kind for name, kind in PEERS.items() if kind in found}
    heads = ["", "ms", "images/s", "processor ms", "of the bare networks", *[f"images/s of {name}" for name in peers]]
    heads += ["ms of torch"] * ("torch" in peers)
    print("| " + " | ".join(heads) + " |\n| --- |" + " ---: |" * (len(heads) - 1))

    def ratio(kind: str, other: str, key: str) -> str:
        if other not in found:
            return ""
        pairs = zip(found[kind], found[other], strict=True)
        return f"{median(one[key] / two[key] for one, two in pairs):.2f}" if key in found[kind][0] else ""

    for kind, results in found.items():
        name, _, ceiling = KINDS[kind]
        cells = [name, f"{median(r['ms'] for r in results):.1f}" if "ms" in results[0] else ""]
        cells += [f"{median(r[key] for r in results):.1f}" for key in ("images/s", "processor ms")]
        cells += [ratio(kind, ceiling, "images/s")]
        cells += [ratio(kind, peer, "images/s") for peer in peers.values()]
        cells += [ratio(kind, PEERS["torch"], "ms")] * ("torch" in peers)
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=lambda path: Path(path).absolute(), required=True)
    parser.add_argument("--images", type=lambda path: Path(path).absolute(), required=True, help="folder")
    parser.add_argument("--count", type=int, default=32, help="of files")
    parser.add_argument("--side", type=int, default=1024, help="of files")
    parser.add_argument("--suffix", default=".jpg", help="of files; .jpg is of quality 95")
    parser.add_argument("--size", type=int, default=256, help="of the networks' input")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="predict writes scores.csv alone")
    parser.add_argument("--anomalib-python", help="of an environment that has anomalib, to install none")
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
    os.environ |= {"CI": "true", "NNCF_CI": "1"}  # or OpenVINO's converter and NNCF send usage data
    with tempfile.TemporaryDirectory() as home:
        options.home = Path(home)
        kinds = [kind for kind in options.kinds if not (options.without_anomalib and "anomalib" in kind)]
        prepare(options)
        theirs = sys.executable
        if any("anomalib" in kind for kind in kinds):
            theirs = options.anomalib_python or install(Path(home) / "environment")
            measured("prepare-anomalib", theirs, options)
        found: dict[str, list[Result]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind in kinds:
                found[kind].append(measured(kind, theirs if "anomalib" in kind else sys.executable, options))
                print(kind, found[kind][-1], file=sys.stderr)
    table(found)


if __name__ == "__main__":
    main()
