"""Exported files can be rewritten with another card, and keep their network and self-check."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_ad import Detector
from lit_ad.deploy.export import SUFFIX, export
from lit_ad.deploy.exported_file import rewrite
from lit_ad.detector.exported import load_exported
from tests.deploy.test_export import DECISION, made, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.mark.parametrize("format", SUFFIX)
def test_a_file_is_rewritten_with_another_decision(
    format: str, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    method, suffix = made("STFPM", small_models), SUFFIX[format]
    export(method, tmp_path / f"a{suffix}", format, carried=pictures(2))  # type: ignore[arg-type]
    before = Detector.load(tmp_path / f"a{suffix}")
    card = replace(before.card, decision=DECISION.with_rate(0.5))
    rewrite(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", card)
    after = Detector.load(tmp_path / f"b{suffix}")
    assert after.card.to_dict() == card.to_dict()
    assert after(pictures(1)[0]).score == before(pictures(1)[0]).score
    loaded = [load_exported(tmp_path / f"{name}{suffix}") for name in "ab"]
    assert loaded[0].check is not None and loaded[0].check == loaded[1].check
    assert loaded[0].fingerprint != loaded[1].fingerprint
    rewrite(tmp_path / f"b{suffix}", tmp_path / f"b{suffix}", card, "{}")
    assert load_exported(tmp_path / f"b{suffix}").check == "{}"
