"""A score depends on its image only: batches of 1, 3 and 8 with images of other sizes give the same score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_ad import methods
from lit_ad.batch import Batch, Sample
from lit_ad.data.collation import collate
from lit_ad.image.view import View
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from tests.judging import original_map, predict_batch

VIEWS: dict[str, dict[str, Any]] = {  # of a side that the method's small model is fit for
    "own size": {"image_size": None},
    "pad": {"fit": "pad"},
    "stretch": {},
    "crop": {"image_size": 2.0, "crop": 1.0},
    "tile": {"image_size": None, "tile": 1.0, "tile_batch": 3},
}


def view_of(name: str, side: int) -> View:
    scaled = {key: int(value * side) if isinstance(value, float) else value for key, value in VIEWS[name].items()}
    settings: dict[str, Any] = {"image_size": side, **scaled}
    return View(**settings)


@pytest.fixture(scope="module")
def fitted_methods(small_models: dict[str, dict[str, Any]]) -> dict[str, tuple[Method, int]]:
    """Each method with its statistics, and the side of its images."""
    found = {}
    for name in METHODS:
        torch.manual_seed(0)
        arguments = small_models[name]["init_args"]
        side = arguments["view"]["image_size"]
        model: Method = getattr(methods, name)(**{**arguments, "view": View(side)})
        with torch.no_grad():
            nominal = [(images, model.describe(images)) for images in torch.rand(4, 2, 3, side, side)]
            model.prepare(nominal)
            model.calibrate(nominal, nominal[:2])
        found[name] = model, side
    return found


def make_items(view: View, sizes: list[tuple[int, int]], seed: int) -> list[Batch]:
    """Return an image of each size as the data module gives it, each with its own contrast and gradient."""
    generator = np.random.default_rng(seed)
    items = []
    for i, (height, width) in enumerate(sizes):
        shade = np.linspace(0, generator.uniform(60, 180), width)[None, :, None]
        image = shade + generator.uniform(0, generator.uniform(20, 75), (height, width, 3))
        pixels, box = view(image.astype(np.uint8))
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        items.append(Batch(tensor, torch.tensor([i]), [Sample(Path(f"{i}.png"), 0)], [(height, width)], [box]))
    return items


def predict(model: Method, items: list[Batch], size: int) -> tuple[Tensor, list[Any]]:
    """Return scores and original maps of all images, in batches of `size`."""
    scores, maps = [], []
    for start in range(0, len(items), size):
        batch = collate(items[start : start + size])
        with torch.no_grad():
            prediction = predict_batch(model, batch)
        assert prediction.score is not None
        scores.append(prediction.score.detach())
        if prediction.anomaly_map is not None:
            maps += [original_map(prediction, batch, i) for i in range(len(batch))]
    return torch.cat(scores), maps


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=2, derandomize=True)
@given(seed=st.integers(0, 9999))
def test_a_score_depends_on_its_image_only(
    name: str, view: str, fitted_methods: dict[str, tuple[Method, int]], seed: int
) -> None:
    model, side = fitted_methods[name]
    model.view = view_of(view, side).of_multiple(model.view.multiple or 1)
    sizes = np.random.default_rng(seed).integers(side, side + side // 2, (4 if side > 64 else 8, 2)).tolist()
    items = make_items(model.view, [(height, width) for height, width in sizes], seed)
    alone, maps = predict(model, items, 1)
    assert alone.isfinite().all() and len(set(alone.tolist())) == len(items)
    for size in (3,) if side > 64 else (3, 8):  # EfficientAD's are too large for all on a CPU
        scores, others = predict(model, items, size)
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-6)
        for one, other in zip(maps, others, strict=True):
            # MKD's are gradients, which jump where a ReLU ends: with SciPy's border, 0.6 % of the maximum was seen.
            tolerance = (1e-2 if name == "MKD" else 5e-3) * float(np.abs(one).max())
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=tolerance)
