"""Compare results and speed of examples/cpp with those of Detector, on the same images one after the other.

python benchmarks/cpp.py PROGRAM MODEL.onnx IMAGES [--rounds 5]

The two run in turn, each time in a new process. The shortest time of each is printed, because other load on the machine
only adds time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from lit_ad.data.sources.images import Images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("program", type=Path, help="build/judge of examples/cpp")
parser.add_argument("model", type=Path)
parser.add_argument("images", type=Path, help="a folder; 20 images, evenly spread, are judged")
parser.add_argument("--rounds", type=int, default=5)
options = parser.parse_args()

DETECTOR = """
import json, sys, time
from lit_ad import Detector
detector = Detector.load(sys.argv[1])
for path in sys.argv[2:]:
    start = time.perf_counter()
    detection = detector(path)
    values = {"score": detection.score, "p_value": detection.p_value, "anomalous": detection.anomalous}
    regions = [{"box": list(region.box), "area": region.area} for region in detection.regions]
    seconds = time.perf_counter() - start
    print(json.dumps({"image": path, **values, "regions": regions, "milliseconds": {"all": 1000 * seconds}}))
"""
KEYS = ("score", "p_value", "anomalous", "regions")

paths = [str(sample.image) for sample in Images(options.images).samples()]
paths = paths[:: max(len(paths) // 20, 1)][:20]
commands = {
    "C++": [str(options.program), str(options.model), *paths],
    "Detector": [sys.executable, "-c", DETECTOR, str(options.model), *paths],
}
answers: dict[str, list[dict]] = {}
process: dict[str, list[float]] = {name: [] for name in commands}  # seconds of each process
processor: dict[str, list[float]] = {name: [] for name in commands}  # processor seconds of each process
image: dict[str, list[float]] = {name: [] for name in commands}  # milliseconds of each image
for _ in range(options.rounds):
    for name, command in commands.items():
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        process[name].append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        answers[name] = [json.loads(line) for line in done.stdout.splitlines()]
        image[name] += [sum(line["milliseconds"].values()) for line in answers[name][1:]]  # the first image warms up

equal = 0
for ours, theirs in zip(answers["C++"], answers["Detector"], strict=True):
    for line in (ours, theirs):
        line["regions"] = [{key: region[key] for key in ("box", "area")} for region in line["regions"]]
    equal += all(ours[key] == theirs[key] for key in KEYS)
    verdicts = [f"{line['score']:.7g}, p {line['p_value']:.3g}, {line['anomalous']}" for line in (ours, theirs)]
    print(f"{Path(ours['image']).name}: C++ {verdicts[0]}; Detector {verdicts[1]}")
print(f"{equal} of {len(paths)} images with equal score, p-value, verdict, and boxes and areas of regions")
for name in commands:
    print(
        f"{name}: {min(process[name]):.2f} s for the process, of which {min(processor[name]):.2f} s of processor time; "
        f"{min(image[name]):.1f} ms for an image"
    )
