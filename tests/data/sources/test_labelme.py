import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from lit_ad.data import Folder, Table
from lit_ad.data.audit.inspection import inspect_samples
from lit_ad.data.masks import read_mask
from lit_ad.data.sources.labelme import draw_labelme, draw_mask_beside
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from tests.data.conftest import Write

SIZE = (20, 30)  # height and width of the images


@pytest.fixture
def image(write: Write) -> Path:
    return write("bad/dent/a.png", SIZE)


def shape(kind: str | None, *points: tuple[float, float], label: str = "dent", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def annotate(image: Path, *shapes: Any, **changes: Any) -> Path:
    """Write NAME.json beside an image, in the format of labelme 5."""
    file = image.with_suffix(".json")
    content: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.name}
    content |= {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **changes}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def drawn(image: Path, *shapes: Any, **changes: Any) -> np.ndarray:
    return read_mask(draw_labelme(annotate(image, *shapes, **changes), image))


def centres(outline: Outline) -> np.ndarray:
    """Compute with matplotlib which pixel centres lie inside an outline: (H, W), true inside."""
    points = np.stack(np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5), axis=-1).reshape(-1, 2)
    return outline.contains_points(points).reshape(SIZE)


def encoded(mask: np.ndarray) -> str:
    """Encode a mask as labelme stores it: a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_polygon_marks_the_pixels_whose_centres_lie_inside(image: Path) -> None:
    corners = [(3.2, 2.1), (20.7, 4.4), (11.3, 17.8)]
    expected = centres(Outline([*corners, corners[0]]))
    assert expected.sum() > 50
    for kind in ("polygon", None):  # early versions of labelme do not write the type of a shape
        assert np.array_equal(drawn(image, shape(kind, *corners)), expected)
    del (early := shape(None, *corners))["shape_type"]
    assert np.array_equal(drawn(image, early, imageHeight=None, imageWidth=None), expected)


def test_a_rectangle_is_drawn_from_two_opposite_corners_or_from_four(image: Path) -> None:
    for points in ([(2, 3), (9, 7)], [(9, 7), (2, 3)], [(9, 3), (2, 7)], [(2, 3), (9, 3), (9, 7), (2, 7)]):
        assert np.array_equal(drawn(image, shape("rectangle", *points)), box(3, 2, 7, 9))
    turned = [(5.2, 1), (9, 5.3), (5.1, 9), (1, 5)]
    for kind in ("rotation", "oriented_rectangle", "quadrilateral"):
        assert np.array_equal(drawn(image, shape(kind, *turned)), centres(Outline([*turned, turned[0]])))


def test_a_circle_marks_the_pixels_whose_centres_lie_inside(image: Path) -> None:
    """A circle has its centre and a point on its edge. A part of the circle may lie outside of the image."""
    draw = pytest.importorskip("skimage.draw")
    for centre, edge in (((10.3, 9.1), (14.3, 12.1)), ((1, 1), (1, 7.1)), ((29, 19), (26.3, 15))):
        radius = float(np.hypot(edge[0] - centre[0], edge[1] - centre[1]))
        expected = np.zeros(SIZE, bool)
        # skimage counts coordinates from pixel centres.
        expected[draw.disk((centre[1] - 0.5, centre[0] - 0.5), radius, shape=SIZE)] = True
        assert expected.sum() >= 30 and np.array_equal(drawn(image, shape("circle", centre, edge)), expected)


def test_a_mask_of_a_shape_is_drawn_in_its_box(image: Path) -> None:
    small = np.array([[1, 0, 1], [0, 1, 1]], bool)
    expected = np.zeros(SIZE, bool)
    expected[4:6, 7:10] = small
    assert np.array_equal(drawn(image, shape("mask", (7, 4), (9, 5), mask=encoded(small))), expected)


def test_several_shapes_are_joined_and_background_is_cut_out(image: Path) -> None:
    shapes = [shape("rectangle", (0, 0), (10, 10)), shape("rectangle", (20, 5), (30, 20), label="划痕")]
    assert np.array_equal(drawn(image, *shapes), box(0, 0, 10, 10) | box(5, 20, 20, 30))
    hole = shape("rectangle", (2, 2), (5, 5), label="_background_")
    assert np.array_equal(drawn(image, *shapes, hole), (box(0, 0, 10, 10) & ~box(2, 2, 5, 5)) | box(5, 20, 20, 30))


@pytest.mark.parametrize("path", ["..\\images\\a.jpg", "/home/me/a.png", "", None])
def test_the_file_belongs_to_its_image_whatever_folder_or_suffix_its_imagepath_has(
    image: Path, path: str | None
) -> None:
    assert drawn(image, shape("rectangle", (0, 0), (9, 9)), imagePath=path).sum() == 81


def test_coordinates_count_in_the_upright_image(image: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.with_name("b.jpg")
    Image.new("RGB", (SIZE[0], SIZE[1])).save(turned, exif=exif)
    mask = read_mask(draw_labelme(annotate(turned, shape("rectangle", (25, 0), (30, 9))), turned))
    assert np.array_equal(mask, box(0, 25, 9, 30))


@pytest.mark.parametrize(
    ("shapes", "changes", "message"),
    [
        (
            [
                shape("polygon", (0, 0), (9, 0), (0, 9)),
                shape("line", (0, 0), (9, 9)),
                shape("point", (1, 2), label="x"),
            ],
            {},
            r"a.json has shapes without an area, shape 2 \(line 'dent'\), shape 3 \(point 'x'\): draw polygons",
        ),
        ([shape("linestrip", (0, 0), (9, 9), (9, 0))], {}, r"shape 1 \(linestrip 'dent'\): draw polygons"),
        (
            [shape("ellipse", (0, 0), (9, 9))],
            {},
            r"shape 1 \(ellipse 'dent'\): this kind of shape is not supported; supported are polygon",
        ),
        ([shape("polygon", (0, 0), (9, 9))], {}, r"shape 1 \(polygon 'dent'\): it has 2 points; correct or remove it"),
        ([shape("rectangle", (0, 0), (9, 9), (9, 0))], {}, r"shape 1 \(rectangle 'dent'\): it has 3 points"),
        ([shape("circle", (0, 0))], {}, r"shape 1 \(circle 'dent'\): a circle has two points"),
        ([shape("rectangle", (5, 5), (5, 9))], {}, r"shape 1 \(rectangle 'dent'\): it marks no pixel"),
        ([shape("rectangle", (5, 5), (32, 9))], {}, r"reaches beyond its image, where x ends at 30, y at 20"),
        ([shape("mask", (28, 4), (30, 5), mask=encoded(np.ones((2, 3), bool)))], {}, r"reaches beyond its image"),
        ([shape("mask", (7, 4), (9, 5))], {}, r"shape 1 \(mask 'dent'\): mask is missing"),
        ([shape("mask", (7, 4), (9, 5), mask="x")], {}, r"shape 1 \(mask 'dent'\): .*correct or remove it"),
        (
            [shape("mask", (7, 4), (9, 5), mask=base64.b64encode(b"no image").decode())],
            {},
            r"shape 1 \(mask 'dent'\): it is no image in a known format; correct",
        ),
        ([{"label": "dent"}], {}, r"shape 1 \(polygon 'dent'\): points is missing"),
        ([shape("polygon", (0, 0), (1, "a"), (2, 2))], {}, r"shape 1 \(polygon 'dent'\): "),  # type: ignore[arg-type]
        ([shape("polygon", (0, 0, 0), (1, 1, 1))], {}, r"its points are no list of \[x, y\]"),  # type: ignore[arg-type]
        (["dent"], {}, r"shape 1 \(polygon 'None'\): "),
        ([shape("rectangle", (0, 0), (9, 9), label="__ignore__")], {}, r"a mask cannot mark pixels to ignore"),
        ([shape("rectangle", (0, 0), (9, 9), label="_background_")], {}, r"a.json marks nothing in .*a.png"),
        ([], {}, r"a.json marks nothing in .*a.png: draw its defects, or remove the file"),
        ([], {"imagePath": "..\\b.png"}, r"a.json is labelme's of ..\\b.png \(its imagePath\), but is given for a.png"),
        (
            [],
            {"imageHeight": 30, "imageWidth": 20},
            r"drawn on an image of 30x20 \(height x width\), but .* is 20x30.*: draw its",
        ),
        ([], {"shapes": {}}, r"a.json is no labelme file: it has no list of shapes"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named_in_the_error(
    image: Path, shapes: list[Any], changes: dict[str, Any], message: str
) -> None:
    file = annotate(image, *shapes, **changes)
    with pytest.raises(UserError, match=message):
        draw_labelme(file, image)


def test_only_a_json_file_of_labelme_beside_an_image_is_its_mask(image: Path) -> None:
    file = image.with_suffix(".json")
    assert draw_mask_beside(image) is None
    for content in ('{"exposure": 3}', "[]", '{"shapes": 3}'):
        file.write_text(content)
        assert draw_mask_beside(image) is None
    file.write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*a.json, which may be labelme's: .*; replace or remove it"):
        draw_mask_beside(image)
    file.write_bytes("\ufeff".encode() + annotate(image, shape("rectangle", (0, 0), (9, 9))).read_bytes())
    mask = draw_mask_beside(image)
    assert mask is not None and read_mask(mask).sum() == 81


@pytest.fixture
def root(tmp_path: Path, image: Path, write: Write) -> Path:
    """Write nominal images and two anomalous images. The first anomalous image has an annotation; one nominal image has
    a file without shapes."""
    for i in range(4):
        write(f"ok/{i}.png", SIZE)
    write("bad/dent/b.png", SIZE)
    annotate(image, shape("rectangle", (0, 0), (9, 9)))
    annotate(tmp_path / "ok/0.png")
    return tmp_path


def test_folder_finds_labelme_files_beside_images(root: Path) -> None:
    samples = Folder("ok", "bad", root=root).samples()
    masks = {s.image.name: s.mask for s in samples if s.label}
    assert masks["b.png"] is None and masks["a.png"] is not None and read_mask(masks["a.png"]).sum() == 81
    report = inspect_samples(Splits([s for s in samples if not s.label], [], samples[-2:]))
    assert "1 with masks" in report.text or "2 dent (1 with masks)" in report.text
    assert report.warnings == [f"files of kinds that are not read, 1 .json: {root / 'ok/0.json'}"]
    (root / "bad/dent/a_mask.png").write_bytes(masks["a.png"].read_bytes())
    with pytest.raises(UserError, match=r"two masks for .*a.png: .*a_mask.png and .*a.json; remove one"):
        Folder("ok", "bad", root=root).samples()


def test_folder_finds_labelme_files_in_folders_of_masks(root: Path) -> None:
    assert [s.mask is None for s in Folder("ok", "bad/dent", "bad/dent", root=root).samples()[-2:]] == [False, True]
    (root / "shapes/dent").mkdir(parents=True)
    (root / "bad/dent/a.json").rename(root / "shapes/dent/a.json")
    (root / "shapes/dent/coco.json").write_text("{}")
    for masks in ("shapes", "shapes/dent"):
        (mask,) = [s.mask for s in Folder("ok", "bad", masks, root=root).samples() if s.mask]
        assert read_mask(mask).sum() == 81


def test_table_finds_labelme_files_beside_images_and_in_the_column_mask(root: Path) -> None:
    """The column mask names the labelme file where the file does not lie beside its image."""
    rows = [f"ok/{i}.png,train,0," for i in range(4)] + ["bad/dent/a.png,test,1,", "bad/dent/b.png,test,1,"]
    (root / "parts.csv").write_text("\n".join(["path,split,label,mask", *rows]))
    beside = Table(root, "parts.csv").samples()
    assert [s.mask is None for s in beside] == [True] * 4 + [False, True]
    (root / "bad/dent/a.json").rename(root / "a.json")
    assert [s.mask for s in Table(root, "parts.csv").samples()] == [None] * 6
    rows[4] += "a.json"
    (root / "parts.csv").write_text("\n".join(["path,split,label,mask", *rows]))
    assert [s.mask for s in Table(root, "parts.csv").samples()] == [s.mask for s in beside]
    rows[5] += "ok/0.json"
    (root / "parts.csv").write_text("\n".join(["path,split,label,mask", *rows]))
    with pytest.raises(UserError, match=r"ok/0.json is labelme's of 0.png \(its imagePath\), but is given for b.png"):
        Table(root, "parts.csv").samples()
