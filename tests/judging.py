"""What a method says of a batch, as tensors to compare."""

from typing import Any

import torch
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.detector.scoring import Judgement
from lit_ad.image import view
from lit_ad.methods.base import Method


def predict_batch(model: Method, batch: Batch, losses: list[tuple[Tensor, int]] | None = None) -> Prediction:
    """Judge a batch: maps (B, 1, H, W), 0 where an image's own is smaller, scores (B,) and parts."""
    return stacked(model.judge(batch, losses))


def map_of(prediction: Prediction) -> Tensor:
    """The maps (B, 1, h, w) of a prediction that has some."""
    assert prediction.anomaly_map is not None
    return prediction.anomaly_map


def scores_of(prediction: Prediction) -> Tensor:
    """The scores (B,) of a prediction that has its own."""
    assert prediction.score is not None
    return prediction.score


def stacked(judgements: list[Judgement]) -> Prediction:
    """Judgements as one prediction."""
    maps = [torch.from_numpy(judgement.network_map) for judgement in judgements if judgement.network_map is not None]
    sides = [max(seen.shape[axis] for seen in maps) for axis in (0, 1)] if maps else []
    whole = torch.zeros(len(maps), 1, *sides)
    for i, seen in enumerate(maps):
        whole[i, 0, : seen.shape[0], : seen.shape[1]] = seen
    parts = {name: torch.tensor([judgement.parts[name] for judgement in judgements]) for name in judgements[0].parts}
    return Prediction(whole if maps else None, torch.tensor([judgement.score for judgement in judgements]), parts)


def original_map(prediction: Prediction, batch: Batch, i: int) -> Any:
    """The map of image i of a batch at its original size: (H0, W0)."""
    assert prediction.anomaly_map is not None
    height, width = batch.input_size(i)
    seen = prediction.anomaly_map[i, 0, :height, :width].numpy()
    return view.original_map(seen, (height, width), batch.boxes[i], batch.sizes[i])
