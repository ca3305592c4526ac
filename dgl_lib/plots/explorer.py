"""Sliders for all that a map depends on, and a picture that follows at once: no network runs behind them.

G_J = sum_j p_j G_j - alpha G_c      the logit gradients G_j of all classes give every class and every alpha
A   = n(S) - t n(G_J)                t = 1 is the talk's step; both gradients stay those at S
"""

from collections.abc import Sequence
from typing import Any

import cv2
import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from dgl_lib import localize
from dgl_lib.data.records import Record
from dgl_lib.maps import minmax, resize, to_uint8
from dgl_lib.metrics.boxes import search
from dgl_lib.metrics.pixels import histograms, iou
from dgl_lib.models import Classifier, preprocess
from dgl_lib.plots import style


def every_map(found: localize.Gradients, c: int, layer: str, alpha: float, step: float) -> dict[str, Tensor]:
    """Maps (h, w) of class ``c`` under the released rule, by method; those of ``localize`` where ``step`` is 1.

    ``found`` is of one image that stands once for each class j, with that class's G_j."""
    S, G, w = found[layer].S[:1], found[layer].G_c, found.logits[:1].softmax(1)  # 1 x K x h x w, C x K x h x w, 1 x C
    w[:, c] = 0
    w[:, c] = 1 - alpha - w.sum(1)  # p - alpha y, and nothing cancels at p_c near 1
    A = localize.n(S) - step * localize.n(torch.einsum("nc,ckhw->nkhw", w, G))
    maps = {"dgl": localize.pixel_selection(A, G[[c]]), "pixel_selection": localize.pixel_selection(S, G[[c]])}
    maps |= {f"enhanced_map{end}": getattr(localize, f"features{end}")(A) for end in localize.READINGS}
    maps |= {name: getattr(localize, name)(S, G[[c]]) for name in ("grad_cam_signed", "layer_cam")}
    return {method: m[0].cpu() for method, m in maps.items()}


def picture(record: Record, m: Tensor, threshold: float, pixels: bool) -> tuple[np.ndarray, float, int]:
    """Image, map, and the map over the image with its boxes, (H, 3 W, 3) uint8; IoU in 0..1; the number of boxes."""
    height, width = record.image.shape[:2]
    photo = record.image.copy() if pixels else np.full_like(record.image, 240)
    heat, cells = minmax(resize(m, (height, width))), minmax(m).numpy()
    cells = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    grid, smooth = ((255 * mpl.colormaps[style.MAP](x)[..., :3]).astype(np.uint8) for x in (cells, heat.numpy()))
    over = cv2.addWeighted(photo, 0.5, smooth if pixels else grid, 0.5, 0)
    mask = np.zeros((height, width), bool) if record.mask is None else record.mask
    outline = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    for panel in (photo, grid, over):
        cv2.drawContours(panel, outline, -1, (170, 255, 170), 1)
    boxes = search(heat.double().numpy(), np.array([threshold])).all_boxes(0).tolist()
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(over, (x0, y0), (x1, y1), (255, 255, 255), 1)
    score = iou(histograms(to_uint8(heat), mask, record.ignore))[round(255 * threshold)]
    return np.hstack([photo, grid, over]), float(score), len(boxes)


def explorer(
    model: Classifier, records: Sequence[Record], layers: Sequence[str], *, size: int, pixels: bool = True
) -> widgets.VBox:
    """Controls over a picture of ``records``' maps on ``layers``, which starts at the first of each.

    The network runs here, once for each image and class. ``size`` is the side of its input in pixels, and ``pixels`` is
    that of ``maps.grid``."""
    every = torch.arange(len(model.classes))
    images = (preprocess(model, [record.image], size).expand(len(every), -1, -1, -1) for record in records)
    kept = [localize.gradients(model, x, every, layers, needs=("G_c",)) for x in images]
    words = [*(name.replace("_", " ") for name in model.classes), "its own label"]
    methods = [(style.name(method), method) for method in every_map(kept[0], 0, layers[0], 1.0, 1.0)]
    controls: dict[str, Any] = {
        "image": widgets.Dropdown(options=[(words[record.label], i) for i, record in enumerate(records)]),
        "class": widgets.Dropdown(options=[(words[c], c) for c in range(-1, len(every))]),
        "layer": widgets.Dropdown(options=layers),
        "method": widgets.Dropdown(options=methods),
        "alpha": widgets.FloatLogSlider(value=10, min=-0.5, max=2, step=0.05),
        "step t": widgets.FloatSlider(value=1, max=2, step=0.05),
        "threshold": widgets.FloatSlider(value=0.5, max=0.99, step=0.01),
    }
    shown, said = widgets.Image(format="png", width=900), widgets.HTML()

    def draw(_: object = None) -> None:
        i, c, layer, method, alpha, step, threshold = (control.value for control in controls.values())
        c = records[i].label if c < 0 else c
        panels, score, boxes = picture(records[i], every_map(kept[i], c, layer, alpha, step)[method], threshold, pixels)
        shown.value = cv2.imencode(".png", panels[..., ::-1])[1].tobytes()
        p_c = float(kept[i].logits[0].softmax(0)[c])
        said.value = f"{words[c]}: p_c {p_c:.3f}. At threshold {threshold:.2f}: IoU {score:.3f}, {boxes} boxes."

    for name, control in controls.items():
        control.description, control.layout.width = name, "420px"
        control.observe(draw, "value")
    draw()
    return widgets.VBox([widgets.Box([*controls.values()], layout={"flex_flow": "row wrap"}), shown, said])
