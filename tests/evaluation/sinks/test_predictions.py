"""Predictions: scores and maps of the right images, the right way up and at the right place, for every view."""

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.annotations import Findings
from lit_ad.batch import Batch, Prediction, Sample
from lit_ad.data import AnomalyDataModule, Images, Loading, MVTec
from lit_ad.detector.decision import Decision
from lit_ad.errors import NOT_FINITE, UserError
from lit_ad.evaluation import Heatmaps, Predictions
from lit_ad.evaluation.sinks.unfinished import format_line, read_part
from lit_ad.image.view import View
from lit_ad.teachers.weights import fingerprint

VIEWS = {
    "own size": View(None),
    "stretched": View((48, 80)),
    "padded": View(96, fit="pad"),
    "padded to a multiple": View((50, 90), multiple=32),
    "tiles": View(None, tile=32, overlap=8, tile_batch=2),
    "tiles of a padded image": View(96, fit="pad", tile=32, overlap=8),
}


def plant(path: Path, size: tuple[int, int], row: int, column: int) -> None:
    """A dark grey image with one bright 9x9 square around a pixel."""
    pixels = np.full(size, 40, np.uint8)
    pixels[row - 4 : row + 5, column - 4 : column + 5] = 240
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_planted_defect_is_found_where_it_is(
    name: str, batch_size: int, stride: int, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """The defect is off centre in both directions, so that a flip, a transposition or a shift would be noticed."""
    planted = {"a.png": ((60, 90), 12, 70), "b.png": ((60, 90), 45, 15), "c/d.png": ((80, 64), 66, 20)}
    for file, (size, row, column) in planted.items():
        plant(tmp_path / "new" / file, size, row, column)
    view = VIEWS[name]
    model = brightness(view, stride)
    data = AnomalyDataModule(
        MVTec(tmp_path / "nowhere"),
        model.view,
        loading=Loading(eval_batch_size=batch_size, num_workers=0),
        predict_path=tmp_path / "new",
    )
    quiet_trainer(tmp_path / "run", Predictions()).predict(model, data)
    with (tmp_path / "run/predictions/scores.csv").open() as table:
        rows = {row["path"]: row for row in csv.DictReader(table)}
    assert list(rows) == list(planted)
    for image, (size, row, column) in planted.items():
        found = np.asarray(Image.open(tmp_path / "run/predictions/maps" / Path(image).with_suffix(".tiff")))
        assert found.dtype == np.float32
        assert found.shape == size
        weight = found - found.min()
        weight[weight < 0.5 * weight.max()] = 0
        centre = [float((weight * axis).sum() / weight.sum()) for axis in np.indices(size)]
        tolerance = 0.6 if stride == 1 else 2.0  # cells of four network pixels
        assert centre == pytest.approx([row, column], abs=tolerance), (image, centre)
        assert float(rows[image]["score"]) == pytest.approx(found.max(), abs=0.1)
        assert rows[image]["verdict"] == ""  # without held-out images there is none


def test_verdicts_and_p_values(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    for i, value in enumerate((51, 102, 204)):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"new/{i}.png")
    model = brightness()
    model.decision = Decision({"x": [0.1, 0.3, 0.5]}, false_alarm=0.3)  # type: ignore[dict-item]
    data = AnomalyDataModule(MVTec(tmp_path), model.view, loading=Loading(num_workers=0), predict_path=tmp_path / "new")
    quiet_trainer(tmp_path / "run", Predictions(maps=False)).predict(model, data)
    with (tmp_path / "run/predictions/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == pytest.approx([0.2, 0.4, 0.8])
    assert [float(row["p_value"]) for row in rows] == pytest.approx([3 / 4, 2 / 4, 1 / 4])
    assert [row["verdict"] for row in rows] == ["nominal", "nominal", "anomalous"]
    assert {float(row["threshold"]) for row in rows} == {0.5}
    assert not (tmp_path / "run/predictions/maps").exists()


def test_regions_are_those_of_the_maps(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    for i, boxes in enumerate(((), (slice(2, 4),), (slice(0, 1), slice(5, 8)))):
        pixels = np.full((8, 8), 51, np.uint8)
        for rows in boxes:
            pixels[rows, 1:7] = 204
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"new/{i}.png")
    model = brightness()
    model.view = View(None, mm_per_pixel=0.5)
    model.decision = Decision({"x": np.array([0.9])}, {"x": np.array([0.5])}, false_alarm=0.5)
    data = AnomalyDataModule(MVTec(tmp_path), model.view, loading=Loading(num_workers=0), predict_path=tmp_path / "new")
    predictions = Predictions(regions=("csv", "json", "coco", "labelme"))
    quiet_trainer(tmp_path / "run", predictions).predict(model, data)
    with (tmp_path / "run/predictions/regions.csv").open() as file:
        lines = [
            (row["path"], row["top"], row["bottom"], row["area"], row["length_mm"]) for row in csv.DictReader(file)
        ]
    assert sorted(lines) == [
        ("1.png", "2", "4", "12", "3"),
        ("2.png", "0", "1", "6", "3"),
        ("2.png", "5", "8", "18", "3"),
    ]
    drawn = [json.loads((tmp_path / f"run/predictions/labelme/{i}.json").read_text())["shapes"] for i in range(3)]
    assert [len(shapes) for shapes in drawn] == [0, 1, 2]
    assert "regions.csv, regions.json, coco.json, maps, labelme are in" in predictions.summary()[-1]
    told = json.loads((tmp_path / "run/predictions/regions.json").read_text())["images"]
    assert [(image["path"], len(image["regions"])) for image in told] == [("0.png", 0), ("1.png", 1), ("2.png", 2)]
    coco = json.loads((tmp_path / "run/predictions/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png", "2.png"]
    assert next((each["image_id"], each["bbox"]) for each in coco["annotations"]) == (2, [1, 2, 6, 2])


def test_an_interruption_keeps_the_regions(tmp_path: Path) -> None:
    found: Findings = {"size": [4, 4], "regions": [{"area": 3}]}
    (tmp_path / "predictions").mkdir()
    written = "".join(
        format_line(*values) for values in (("0.png", 0.5, "", found), ("1.png", 0.5, "unreadable"), ("2.png", 0.1, ""))
    )
    (tmp_path / "predictions/scores.0.part").write_text(written)
    about = {"weights": "w", "images": str(tmp_path), "regions": ["csv"], "maps": True}
    (tmp_path / "predictions/unfinished.json").write_text(json.dumps(about))
    samples = [Sample(tmp_path / f"{i}.png", -1) for i in range(3)]
    _, done = Predictions().claim(tmp_path, tmp_path, samples, "w")
    assert list(done.values()) == [0.5, 0.1]
    kept = list(read_part(tmp_path / "predictions/scores.earlier.part"))
    assert [(line.path, line.findings) for line in kept] == [("0.png", found), ("2.png", None)]
    for other in (Predictions(regions=("csv", "coco")), Predictions(maps=False)):  # other files than those written
        assert other.claim(tmp_path, tmp_path, samples, "w") == (tmp_path / "predictions-2", {})
        (tmp_path / "predictions-2/unfinished.json").unlink()


def test_the_folder_of_an_image_gives_its_category(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    for folder in ("bright/line/2", "dark", "other"):
        (tmp_path / "new" / folder).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 102, np.uint8)).save(tmp_path / "new" / folder / "0.png")
    model = brightness()
    held = {"bright": np.array([0.5, 0.6, 0.7]), "dark": np.array([0.1, 0.2, 0.3])}
    model.decision = Decision(held, false_alarm=0.3)
    data = AnomalyDataModule(MVTec(tmp_path), model.view, loading=Loading(num_workers=0), predict_path=tmp_path / "new")
    predictions = Predictions()
    quiet_trainer(tmp_path / "run", predictions).predict(model, data)
    assert [(row.path, row.verdict, row.threshold) for row in predictions.rows] == [
        ("bright/line/2/0.png", "nominal", "0.7"),
        ("dark/0.png", "anomalous", "0.3"),
        ("other/0.png", "nominal", "0.6"),
    ]
    assert (tmp_path / "run/predictions/maps/bright/line/2/0.tiff").exists()
    assert predictions.summary()[0] == "3 images: 1 anomalous"
    assert predictions.summary()[1] == (
        "1 of them judged by the threshold of all categories together, because this model has no threshold for their "
        "folder (other), but for bright, dark"
    )


def test_an_unreadable_image_has_a_row_and_the_others_are_judged(
    tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    for i in range(3):
        plant(tmp_path / f"new/{i}.png", (20, 30), 8, 9)
    (tmp_path / "new/1.png").write_text("no image")
    model = brightness(View(16))
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(num_workers=0, eval_batch_size=2), predict_path=tmp_path / "new"
    )
    predictions = Predictions(output=tmp_path / "out")
    quiet_trainer(tmp_path / "run", predictions, Heatmaps()).predict(model, data)
    with (tmp_path / "out/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert [bool(row["score"]) for row in rows] == [True, False, True]
    assert "cannot read" in rows[1]["error"]
    assert predictions.failed == 1
    without = "no verdicts without a threshold"  # the model has none
    assert predictions.summary()[0] == f"3 images: {without}, 1 not judged (see the column error of scores.csv)"
    for folder, suffix in (("maps", "tiff"), ("heatmaps", "jpg")):
        assert sorted(path.name for path in (tmp_path / "out" / folder).iterdir()) == [f"0.{suffix}", f"2.{suffix}"]
    with pytest.raises(UserError, match="holds predictions already"):
        quiet_trainer(tmp_path / "run", Predictions(output=tmp_path / "out")).predict(model, data)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_an_image_whose_map_is_not_finite_has_a_row_with_its_error(
    precision: str, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    for i in range(3):
        plant(tmp_path / f"new/{i}.png", (20, 30), 8, 9 + i)

    class Broken(brightness):  # type: ignore[misc]
        """The map of the second image has -inf, which no maximum shows."""

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            disagreement = disagreement.clone()
            disagreement[1, 0, 2, 3] = -torch.inf
            return Prediction(disagreement)

    model = Broken(View(16))
    model.decision = Decision({"": [0.5]})  # type: ignore[dict-item]
    data = AnomalyDataModule(MVTec(tmp_path), model.view, loading=Loading(num_workers=0, eval_batch_size=3))
    data.predict_path = tmp_path / "new"
    predictions = Predictions(output=tmp_path / "out")
    quiet_trainer(tmp_path / "run", predictions, Heatmaps(), precision=precision).predict(model, data)
    with (tmp_path / "out/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["anomalous", "", "anomalous"]
    assert rows[1] == {"path": "1.png", "error": NOT_FINITE, **dict.fromkeys(list(rows[0])[1:-1], "")}
    assert predictions.failed == 1
    for folder, suffix in (("maps", "tiff"), ("heatmaps", "jpg")):
        assert sorted(path.name for path in (tmp_path / "out" / folder).iterdir()) == [f"0.{suffix}", f"2.{suffix}"]


def test_a_page_of_a_tiff_has_a_row_a_map_and_a_picture(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    (tmp_path / "new/film").mkdir(parents=True)
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (51, 102, 204)]
    pages[0].save(tmp_path / "new/film/a.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "new/film/b.tif")
    model = brightness()
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(num_workers=0, eval_batch_size=3), predict_path=tmp_path / "new"
    )
    quiet_trainer(tmp_path / "run", Predictions(), Heatmaps()).predict(model, data)
    with (tmp_path / "run/predictions/scores.csv").open() as file:
        found = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    assert found == pytest.approx({"film/a.tif#1": 0.2, "film/a.tif#2": 0.4, "film/a.tif#3": 0.8, "film/b.tif": 0.4})
    for folder, suffix in (("maps", "tiff"), ("heatmaps", "jpg")):
        names = sorted(path.name for path in (tmp_path / "run/predictions" / folder / "film").iterdir())
        assert names == [f"{name}.{suffix}" for name in ("a#1", "a#2", "a#3", "b")]


def test_a_second_predict_leaves_the_first_alone(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    plant(tmp_path / "new/0.png", (20, 30), 8, 9)
    (tmp_path / "new/readme.txt").write_text("")
    model = brightness(View(16))
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(num_workers=0), predict_path=tmp_path / "new/0.png"
    )
    for _ in range(2):
        predictions = Predictions()
        quiet_trainer(tmp_path / "run", predictions).predict(model, data)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"predictions", "predictions-2"}
    assert predictions.summary()[0].startswith("0.png: score 0.")
    (remark,) = Images(tmp_path / "new").remarks()
    assert remark == f"files of kinds that are not read, 1 .txt: {tmp_path / 'new/readme.txt'}"


class Killed(Exception):
    pass


class Kill(L.Callback):
    """Ends the run after some batches, like a failure from outside."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, 0

    def on_predict_batch_start(self, trainer: Any, module: Any, batch: Batch, number: int, _: int = 0) -> None:
        if number == self.after:
            raise Killed
        self.seen += len(batch)


@pytest.fixture
def checkpoint(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> tuple[Any, AnomalyDataModule, Path]:
    """A model, twelve images to predict, and the model's file."""
    for i in range(12):
        plant(tmp_path / f"new/{'ab'[i % 2]}/{i:02}.png", (20, 30 + i), 8, 9 + i)
    model = brightness(View(16))
    model.decision = Decision({"x": [0.5]}, false_alarm=0.5)  # type: ignore[dict-item]
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(num_workers=0, eval_batch_size=2), predict_path=tmp_path / "new"
    )
    trainer = quiet_trainer(tmp_path / "once")
    trainer.predict(model, data, return_predictions=False)
    trainer.save_checkpoint(tmp_path / "brightness.ckpt")
    return model, data, tmp_path / "brightness.ckpt"


def test_a_killed_prediction_is_resumed(
    checkpoint: tuple[Any, AnomalyDataModule, Path], tmp_path: Path, quiet_trainer: Any, capsys: Any, monkeypatch: Any
) -> None:
    model, data, file = checkpoint
    write = Predictions.image

    def slow(*arguments: Any) -> None:
        time.sleep(0.05)
        write(*arguments)

    monkeypatch.setattr(Predictions, "image", slow)
    whole, broken, out = Predictions(output=tmp_path / "whole"), Kill(4), tmp_path / "run/predictions"
    quiet_trainer(tmp_path / "run", whole, Heatmaps()).predict(model, data, ckpt_path=file)
    with pytest.raises(Killed):
        quiet_trainer(tmp_path / "run", Predictions(), Heatmaps(), broken).predict(model, data, ckpt_path=file)
    part = out / "scores.0.part"
    assert len(part.read_text().splitlines()) == broken.seen == 8 and not (out / "scores.csv").exists()
    assert len(list((out / "maps").rglob("*.tiff"))) == 8
    model.weight.data.fill_(1)
    trainer = quiet_trainer(tmp_path / "other")
    trainer.predict(model, data, return_predictions=False)
    trainer.save_checkpoint(other := tmp_path / "other.ckpt")
    lines = sorted(part.read_text().splitlines(keepends=True))  # threads wrote them in any order
    part.write_text("".join(lines)[:-9])  # killed while it wrote the last line
    with pytest.raises(UserError, match=r"holds unfinished predictions of another model, of other images, or with"):
        quiet_trainer(tmp_path / "run", Predictions(output=out)).predict(model, data, ckpt_path=other)
    (out / "heatmaps/a/00.jpg").unlink()  # what was said of an image is done when all of it is there
    rest = Kill(99)
    quiet_trainer(tmp_path / "run", Predictions(), Heatmaps(), rest).predict(model, data, ckpt_path=file)
    assert rest.seen == 12 - 8 + 2
    assert f"Resuming in {out}: 6 of 12 images are done already" in capsys.readouterr().out
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    expected = [path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.*")]
    assert found == sorted(expected) and len(found) == 25
    assert (out / "scores.csv").read_text() == (tmp_path / "whole/scores.csv").read_text()
    for path in (out / "maps").rglob("*.tiff"):
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(out)).read_bytes()


NAMES = (
    *(
        b"teil_\xfc",
        b"a\nb",
        b"a\x0bb\r",
        "\u2028\x85".encode(),
        b'"x,y"',
        b"#1 %20",
        b"-x",
        b"~",
        b"l" * 251,
        b"\xff" * 251,
    ),
    *("pr\u00fcf".encode(), "pru\u0308f".encode(), b"Case", b"case"),
)


def test_any_file_name_works(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """In the table, in the parts of an interrupted run, and in the names of pictures and maps."""
    for number, name in enumerate(NAMES):
        plant(tmp_path / "new/a.png", (20, 30), 8, 9 + number)
        os.rename(tmp_path / "new/a.png", os.path.join(os.fsencode(tmp_path / "new"), name + b".png"))  # noqa: PTH104, PTH118
    model = brightness(View(16))
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(num_workers=0, eval_batch_size=2), predict_path=tmp_path / "new"
    )
    trainer = quiet_trainer(tmp_path / "once")
    trainer.predict(model, data, return_predictions=False)
    trainer.save_checkpoint(checkpoint := tmp_path / "brightness.ckpt")
    with pytest.raises(Killed):
        quiet_trainer(tmp_path / "run", Predictions(), Heatmaps(), Kill(6)).predict(model, data, ckpt_path=checkpoint)
    rest, predictions = Kill(99), Predictions()
    quiet_trainer(tmp_path / "run", predictions, Heatmaps(), rest).predict(model, data, ckpt_path=checkpoint)
    assert rest.seen == len(NAMES) - 12
    out = tmp_path / "run/predictions"
    with (out / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {os.fsencode(row["path"]) for row in rows} == {name + b".png" for name in NAMES}
    assert all((tmp_path / "new" / row["path"]).is_file() and float(row["score"]) > 0 for row in rows)
    for folder in ("maps", "heatmaps"):
        assert len([path for path in (out / folder).rglob("*") if path.is_file()]) == len(NAMES)
    assert all(line.isprintable() for line in predictions.summary())


def test_a_run_killed_at_its_very_end(
    checkpoint: tuple[Any, AnomalyDataModule, Path], tmp_path: Path, quiet_trainer: Any
) -> None:
    model, data, file = checkpoint
    out = tmp_path / "run/predictions"
    quiet_trainer(tmp_path / "run", Predictions()).predict(model, data, ckpt_path=file)
    scores = (out / "scores.csv").read_text()
    lines = [line.split(",") for line in scores.splitlines()[1:]]
    (out / "scores.csv").unlink()
    (out / "scores.0.part").write_text("".join(format_line(line[0], float(line[1]), "") for line in lines))
    about = {
        "weights": fingerprint(model.state_dict()),
        "images": str(data.predict_path),
        "regions": ["csv"],
        "maps": True,
    }
    (out / "unfinished.json").write_text(json.dumps(about))
    rest = Kill(99)
    quiet_trainer(tmp_path / "run", Predictions(), rest).predict(model, data, ckpt_path=file)
    assert rest.seen <= 1  # Lightning runs no empty loader
    assert (out / "scores.csv").read_text() == scores
    assert sorted(path.name for path in out.iterdir()) == ["maps", "scores.csv"]


def test_another_checkpoint_starts_anew(
    checkpoint: tuple[Any, AnomalyDataModule, Path], tmp_path: Path, quiet_trainer: Any
) -> None:
    model, data, file = checkpoint
    with pytest.raises(Killed):
        quiet_trainer(tmp_path / "run", Predictions(), Kill(2)).predict(model, data, ckpt_path=file)
    model.weight.data.fill_(1)
    trainer = quiet_trainer(tmp_path / "other")
    trainer.predict(model, data, return_predictions=False)
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    quiet_trainer(tmp_path / "run", Predictions()).predict(model, data, ckpt_path=tmp_path / "other.ckpt")
    assert (tmp_path / "run/predictions/scores.0.part").exists()
    assert len((tmp_path / "run/predictions-2/scores.csv").read_text().splitlines()) == 13


class Memory(L.Callback):
    """Records the memory of this process, in MiB, after each image."""

    def __init__(self) -> None:
        self.resident: list[float] = []

    def on_predict_batch_end(self, *_: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


@pytest.mark.slow  # a minute
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's account of memory")
def test_memory_does_not_grow_with_ten_thousand_images(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    plant(tmp_path / "one.png", (256, 256), 9, 9)
    (tmp_path / "new").mkdir()
    for i in range(10_000):
        os.link(tmp_path / "one.png", tmp_path / f"new/{i}.png")
    model, memory = brightness(View(64)), Memory()
    data = AnomalyDataModule(
        MVTec(tmp_path), model.view, loading=Loading(eval_batch_size=1), predict_path=tmp_path / "new"
    )
    callbacks = (Predictions(), Heatmaps(height=64), memory)
    quiet_trainer(tmp_path / "run", *callbacks).predict(model, data, return_predictions=False)
    print(f"after 1000 images {memory.resident[1000]:.0f} MiB, after 10000 {memory.resident[-1]:.0f} MiB")
    assert len(memory.resident) == 10_000
    assert memory.resident[-1] - memory.resident[1000] < 40  # 1000 maps of float32 take 256
