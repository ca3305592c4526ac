"""Normalisations: min-max is the study's own order, the others differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sets import Bordered, random_maps

from dgl_lib import evaluation, metrics, normalisation, paths


def test_minmax_is_the_studys_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path)
    data, maps = Bordered("test", 3), random_maps(3)
    pair = ("dgl", "add1")
    curves = normalisation.normalised(data, maps, [pair])[pair]
    assert curves.shape == (len(normalisation.WAYS), 3, 256)
    study_s = metrics.iou(evaluation.score(data, {1.0: maps.only([pair])}).find(method="dgl"))
    np.testing.assert_allclose(curves[0], study_s, atol=0.01)  # a pixel at the edge of two levels may round over
    assert all(np.abs(curves[k] - study_s).max() > 0.05 for k in range(1, len(normalisation.WAYS)))
