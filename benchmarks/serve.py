"""Load `lit-ad serve` with 50 clients at once on this machine, and compare the answers with Detector's scores.

python benchmarks/serve.py DETECTOR IMAGES [--clients 50] [--requests 20]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from lit_ad import Detector
from lit_ad.data.sources.images import Images

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("detector", type=Path)
parser.add_argument("images", type=Path)
parser.add_argument("--clients", type=int, default=50)
parser.add_argument("--requests", type=int, default=20, help="requests of each client")
options = parser.parse_args()

paths = [sample.image for sample in Images(options.images).samples()][:100]
detector = Detector.load(options.detector)
start = time.perf_counter()
expected = [detection.score for detection in detector.stream(paths)]
alone = len(paths) / (time.perf_counter() - start)
bodies = [path.read_bytes() for path in paths]


def run_client(port: int, number: int) -> list[tuple[float, int, bool]]:
    """Send requests over one connection. Return for each: seconds, status, and whether the score is the Detector's."""
    connection, results = HTTPConnection("127.0.0.1", port, timeout=300), []
    for i in range(options.requests):
        which = (number + i) % len(paths)
        begin = time.perf_counter()
        connection.request("POST", "/detect", bodies[which])
        response = connection.getresponse()
        answer = json.loads(response.read())
        same = abs(answer.get("score", np.nan) - expected[which]) <= 1e-5 * abs(expected[which])
        results.append((time.perf_counter() - begin, response.status, same))
    return results


with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
    command = [sys.executable, "-m", "lit_ad", "serve", str(options.detector), "--port", "0"]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while True:
            log.seek(0)
            if address := re.search(r"is served at http://127.0.0.1:(\d+)", log.read()):
                break
            assert server.poll() is None, "the service did not start"
            time.sleep(0.1)
        port = int(address[1])
        run_client(port, 0)  # the first requests warm the service up
        start = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as clients:
            results = list(clients.map(lambda number: run_client(port, number), range(options.clients)))
        total = time.perf_counter() - start
        answers = [answer for answers_of_client in results for answer in answers_of_client]
    finally:
        server.terminate()
        server.wait(60)

times = np.array([seconds for seconds, _, _ in answers])
print(f"{len(answers)} requests of {options.clients} clients, {sum(status != 200 for _, status, _ in answers)} errors")
print(f"{sum(same for _, _, same in answers)} scores are equal to the Detector's")
print(f"p50 {np.quantile(times, 0.5):.2f} s, p95 {np.quantile(times, 0.95):.2f} s")
print(f"{len(answers) / total:.1f} images/s; Detector.stream in one process {alone:.1f}")
