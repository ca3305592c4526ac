"""What the padding changes: the same weights run with symmetric padding and with TensorFlow's "same"."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib.data.records import Dataset
from dgl_lib.evaluate.controls import pearson
from dgl_lib.evaluate.raw import Maps, raw_maps
from dgl_lib.evaluate.scores import report, score
from dgl_lib.metrics import bootstrap
from dgl_lib.models import SPGPlain, spg_plain

COMPARED = ("dgl", "pixel_selection")


def repadded(model: SPGPlain) -> SPGPlain:
    """A copy of ``model`` with its weights and the other padding, in eval mode."""
    [other] = {*model.paddings} - {model.padding}
    with torch.random.fork_rng(devices=[]):  # its random start is of no use
        copy = spg_plain(model.num_classes, width=model.width, padding=other)
    copy.load_state_dict(model.state_dict())
    copy.adapt({"count_include_pad": str(model.count_include_pad)})
    copy.mean, copy.std = model.mean, model.std
    return copy.eval()


def padding_table(model: SPGPlain, parts: Sequence[Dataset], maps: Sequence[Maps], **how: Any) -> pd.DataFrame:
    """How ``model`` and its copy with the other padding differ: a row a layer, and one for the logits.

    ``parts`` are validation and test images, ``maps`` their raw maps by ``model`` as it is, of DGL and pixel selection
    on every layer. ``how`` is how those were made, as for ``raw_maps`` (size, alpha, rule, device, folder, progress).

    Columns: layer. correlation, correlation_low and _high: Pearson's over the cells of DGL's two maps of a test image,
    mean and 95 % interval; 0 where a map is constant. dgl_PADDING, pixel_selection_PADDING: the test IoU (percent) at
    the threshold from validation under that padding. The row "logits" alone has the last two,
    in percent. logit_difference: an image's largest difference over its largest symmetric logit, of the worst test
    image. same_class: the share of test images that get one class under both."""
    layers, copy = [at.name for at in model.layers], repadded(model)
    kept = {name: how[name] for name in ("folder", "progress") if name in how}
    others = [raw_maps(copy, part, layers=layers, methods=COMPARED, **how) for part in parts]
    by_padding = {model.padding: maps, copy.padding: others}
    iou = {}
    for padding, both in by_padding.items():
        pairs = [(method, at) for method in COMPARED for at in layers]
        val, test = (score(part, {1.0: m.only(pairs)}, **kept) for part, m in zip(parts, both, strict=True))
        iou[padding] = report(val, test).set_index(["method", "layer"])["iou"]
    one, other = (by_padding[padding][1] for padding in model.paddings)
    rows: list[dict[str, Any]] = []
    for at in layers:
        alike = bootstrap(np.nan_to_num(pearson(one.maps["dgl", at], other.maps["dgl", at])))
        cells = {f"{method}_{by}": iou[by][method, at] for method in COMPARED for by in model.paddings}
        rows.append({"layer": at, **alike.cells("correlation"), **cells})
    difference = np.abs(one.logits - other.logits).max(1) / np.abs(one.logits).max(1)  # of each image
    same = (one.logits.argmax(1) == other.logits.argmax(1)).mean()
    rows.append({"layer": "logits", "logit_difference": 100 * difference.max(), "same_class": 100 * same})
    return pd.DataFrame(rows)
