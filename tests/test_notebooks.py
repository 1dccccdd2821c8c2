"""Each notebook runs from top to bottom in an empty directory. Its committed outputs are complete, small, and name no
folder of the machine that ran it.

To refresh the outputs: jupyter execute --inplace --NotebookClient.record_timing=False notebooks/*.ipynb
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("1_quickstart", "2_your_own_folder", "3_comparing_methods")


def read(name: str) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def said(notebook: NotebookNode) -> str:
    """Return all text output of a notebook: printed, displayed, or in errors."""
    texts = []
    for output in outputs(notebook):
        texts += [output.get("text", ""), *output.get("traceback", [])]
        texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def pictures(notebook: NotebookNode) -> int:
    return sum(kind.startswith("image/") for output in outputs(notebook) for kind in output.get("data", {}))


@pytest.fixture
def executed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookNode:
    """A notebook that this interpreter has run offline, in a directory that stays empty."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_kernel_spec(str(tmp_path / "kernels/python3"))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    assert specs.get_kernel_spec("python3").argv[0] == sys.executable
    notebook = read(request.param)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    NotebookClient(notebook, km=kernel, timeout=900, resources={"metadata": {"path": str(cwd)}}).execute()
    assert not list(cwd.iterdir())
    assert not (tmp_path / "cache/lit_ad").exists()
    return notebook


def table(text: str, row: str) -> list[float]:
    """The metrics of a row of Evaluation's two tables: three of images, three of pixels, three of defects."""
    (images,) = re.findall(rf"^{row} +((?:[\d.]+ +){{3}})\d+/\d+ +\d+/\d+$", text, flags=re.MULTILINE)
    (pixels,) = re.findall(rf"^{row} +((?:[\d.]+ *){{6}})$", text, flags=re.MULTILINE)
    return [float(number) for number in (images + pixels).split()]


@pytest.mark.parametrize("executed", NAMES[:1], indirect=True)
def test_the_quickstart_notebook(executed: NotebookNode) -> None:
    text = said(executed)
    image_auroc, _, _, pixel_auroc, _, aupro, *_ = table(text, "pooled")
    assert 0.85 < image_auroc <= 1 and 0.9 < pixel_auroc <= 1 and 0.8 < aupro <= 1
    assert "brick: 48 to train on, 12 held out" in text and "This run is in run: config.yaml" in text
    (printed,) = re.findall(r"^pooled +image_auroc ([\d.]+) +pixel_auroc ([\d.]+) +aupro_30 ([\d.]+)", text, re.M)
    assert [float(number) for number in printed] == pytest.approx([image_auroc, pixel_auroc, aupro], abs=6e-4)
    (judged,) = re.findall(r"^Detection\(anomalous, score ([\d.]+), threshold ([\d.]+), p-value ([\d.]+)", text, re.M)
    score, threshold, p_value = map(float, judged)
    assert score > threshold and p_value == pytest.approx(1 / 13, abs=1e-4)  # above all of the 12 held-out images
    assert re.search(r"^[1-9]\d* anomalous pixels in the box \(", text, re.M)
    assert pictures(executed) == 3


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("executed", NAMES[1:2], indirect=True)
def test_the_notebook_of_your_own_folder(executed: NotebookNode) -> None:
    text = said(executed)
    image_auroc, _, _, pixel_auroc, _, aupro, *_ = table(text, "pooled")
    assert 0.85 < image_auroc <= 1 and 0.9 < pixel_auroc <= 1 and 0.8 < aupro <= 1
    (by_hand,), (threshold,) = (re.findall(rf"{what}: ([\d.]+)$", text, re.M) for what in ("by hand", "checkpoint"))
    assert float(by_hand) == pytest.approx(float(threshold), abs=0.002)  # the threshold is the held-out scores'
    trade = re.findall(r"^ *([\d.]+) +([\d.]+) +(\d+) of 24 +(\d+) of 8 +(\d+) of 8 +(\d+) of 8$", text, re.M)
    assert [row[0] for row in trade] == ["0.5", "0.25", "0.15", "0.1"]
    assert float(trade[-1][1]) == pytest.approx(float(threshold), abs=0.006)  # of the rate that was trained with
    false_alarms, missed = [int(row[2]) for row in trade], [sum(map(int, row[3:])) for row in trade]
    assert false_alarms == sorted(false_alarms, reverse=True) and missed == sorted(missed)
    assert "8 images: the same scores, p-values and verdicts as in the test" in text
    (p_value,) = re.findall(r"^Detection\(anomalous, .*, p-value ([\d.]+),", text, re.M)
    assert float(p_value) == pytest.approx(1 / 13, abs=1e-4)  # above all of the 12 held-out images
    assert re.search(r"^  [1-9]\d* anomalous pixels within \(", text, re.M)
    assert pictures(executed) == 3


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("executed", NAMES[2:], indirect=True)
def test_the_notebook_that_compares_methods(executed: NotebookNode) -> None:
    text = said(executed)
    rows = re.findall(r"^\| (\w+) \| ([\w/]+) \| ([\d.]+) \[[\d.]+, [\d.]+\] \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    found = {(method, kind): [float(number) for number in numbers] for method, kind, *numbers in rows}
    kinds = ("pooled", "brick/hole", "brick/missing_patch", "brick/scratch", "brick/stain")
    assert set(found) == {(method, kind) for method in ("STFPM", "MKD") for kind in kinds}
    for method, least in (("STFPM", (0.85, 0.9, 0.8)), ("MKD", (0.6, 0.8, 0.45))):
        assert all(low < number <= 1 for low, number in zip(least, found[method, "pooled"], strict=True))
    assert pictures(executed) == 2


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_complete_small_and_neutral(name: str) -> None:
    notebook = read(name)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # in one go
    assert pictures(notebook) >= 2
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}  # no warnings, no errors
    assert not any(output.output_type == "error" for output in outputs(notebook))
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)\b", said(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_trains_as_the_command_does(name: str) -> None:
    """A reader sees the three lines, and no training that is put together by hand."""
    notebook = read(name)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "lit_ad.fit(" in code and ".metrics" in code and ".detector()" in code
    assert "Trainer(" not in code and "AnomalyDataModule(" not in code
    assert not any("execution" in cell.metadata for cell in notebook.cells)  # the times of one machine


def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
