"""Check that the journal of `lit-ad serve` has a row for each answer to 50 clients, even after a SIGKILL half-way.

python benchmarks/journal.py DETECTOR IMAGES [--clients 50] [--seconds 120]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from lit_ad.data.sources.images import Images
from lit_ad.deploy.journal_file import JournalFile

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("detector", type=Path)
parser.add_argument("images", type=Path)
parser.add_argument("--clients", type=int, default=50)
parser.add_argument("--seconds", type=float, default=120)
options = parser.parse_args()

bodies = [sample.image.read_bytes() for sample in Images(options.images).samples()[:100]]
answered: Counter[str] = Counter()
waits: list[float] = []
errors: Counter[str] = Counter()
ended = threading.Event()


def start_service(folder: Path, port: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the service, and wait until it listens. Return its process and its port."""
    log = folder / f"log-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "lit_ad", "serve", str(options.detector), "--port", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen([*command, "--journal", str(folder / "journal")], stdout=out, stderr=out)
    while not (listening := re.search(r"is served at http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))):
        assert server.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.1)
    return server, int(listening[1])


def run_client(number: int, port: int) -> None:
    """Send requests until the end, and count the answers with status 200. The client's name is the journal's source."""
    source, which, connection = f"client-{number}", number, None
    while not ended.is_set():
        begin = time.perf_counter()
        try:
            connection = connection or HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", f"/detect?source={source}", bodies[which % len(bodies)])
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError):  # the service was killed
            connection = None
            errors["no answer"] += 1
            time.sleep(0.2)
            continue
        if response.status == 200 and "score" in answer:
            answered[source] += 1
            waits.append(time.perf_counter() - begin)
        else:
            errors[str(response.status)] += 1
        which += 1


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    server, port = start_service(folder, 0)
    threads = [threading.Thread(target=run_client, args=(number, port)) for number in range(options.clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(options.seconds / 2)
    server.kill()
    server.wait()
    before = sum(answered.values())
    server, _ = start_service(folder, port)
    time.sleep(max(0.0, options.seconds / 2))
    ended.set()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    server.terminate()
    server.wait(60)
    file = JournalFile(folder / "journal", alone=False)
    rows = Counter(row.source for _, row in file.rows())
    file.close()

lost = sum(max(0, count - rows[source]) for source, count in answered.items())
print(f"{options.clients} clients, {seconds:.0f} s: {sum(answered.values())} answers, {before} of them before the kill")
print(f"{sum(rows.values())} rows in the journal; {lost} answers without a row")
p50, p95, p99 = np.quantile(waits, [0.5, 0.95, 0.99])
print(f"{sum(answered.values()) / seconds:.1f} answers/s; p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s")
print(f"Requests without an answer: {dict(errors)}")
