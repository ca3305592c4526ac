"""Sliders for all that a map depends on, and a picture that follows at once: no network runs behind them.

G_J = (1 - p_c) G_1 - (alpha - 1) G_c      two gradients of a class give every alpha (``pulling.loss_gradient``)
A   = n(S) - t n(G_J)                      t = 1 is the talk's step; both gradients stay those at S
"""

from collections.abc import Sequence
from typing import Any

import cv2
import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
from torch import Tensor

from dgl_lib import localize
from dgl_lib.data.records import Record
from dgl_lib.maps import minmax, resize, to_uint8
from dgl_lib.metrics.boxes import search
from dgl_lib.metrics.pixels import histograms, iou
from dgl_lib.models import Classifier, preprocess
from dgl_lib.plots import style
from dgl_lib.pulling import loss_gradient, rest_of


def every_map(found: localize.Gradients, i: int, layer: str, alpha: float, step: float) -> dict[str, Tensor]:
    """Maps (h, w) of the ``i``-th image of ``found`` for its class under the released rule, by method.

    ``found`` is of the autograd rule, G_J standing for G_1. Where ``step`` is 1, the maps are those of ``localize``."""
    S, G_c, G_1 = (X[[i]] for X in found[layer])  # 1 x K x h x w each
    rest = rest_of(found.logits, found.classes)[[i]]  # 1 - p_c
    A = localize.n(S) - step * localize.n(loss_gradient(G_c, G_1, rest, alpha))
    maps = {"dgl": localize.pixel_selection(A, G_c), "pixel_selection": localize.pixel_selection(S, G_c)}
    maps |= {f"enhanced_map{end}": getattr(localize, f"features{end}")(A) for end in localize.READINGS}
    maps |= {name: getattr(localize, name)(S, G_c) for name in ("grad_cam_signed", "layer_cam")}
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

    The network runs here, once an image and class. ``size`` is its input's side, ``pixels`` that of ``maps.grid``."""
    classes = sorted({record.label for record in records})
    images = (preprocess(model, [record.image], size).expand(len(classes), -1, -1, -1) for record in records)
    kept = [localize.gradients(model, x, classes, layers, rule="autograd") for x in images]
    words = [model.classes[c].replace("_", " ") for c in classes]
    methods = [(style.name(method), method) for method in every_map(kept[0], 0, layers[0], 1.0, 1.0)]
    controls: dict[str, Any] = {
        "image": widgets.Dropdown(options=[(record.name, i) for i, record in enumerate(records)]),
        "class": widgets.Dropdown(options=[("its own label", -1), *((word, j) for j, word in enumerate(words))]),
        "layer": widgets.Dropdown(options=layers),
        "method": widgets.Dropdown(options=methods),
        "alpha": widgets.FloatLogSlider(value=10, min=-0.5, max=2, step=0.05),
        "step t": widgets.FloatSlider(value=1, max=2, step=0.05),
        "threshold": widgets.FloatSlider(value=0.5, max=0.99, step=0.01),
    }
    shown, said = widgets.Image(format="png", width=900), widgets.HTML()

    def draw(_: object = None) -> None:
        i, j, layer, method, alpha, step, threshold = (control.value for control in controls.values())
        j = classes.index(records[i].label) if j < 0 else j
        panels, score, boxes = picture(records[i], every_map(kept[i], j, layer, alpha, step)[method], threshold, pixels)
        shown.value = cv2.imencode(".png", panels[..., ::-1])[1].tobytes()
        p_c = float(kept[i].logits[j].softmax(0)[classes[j]])
        said.value = f"{words[j]}: p_c {p_c:.3f}. At threshold {threshold:.2f}: IoU {score:.3f}, boxes: {boxes}."

    for name, control in controls.items():
        control.description, control.layout.width = name, "420px"
        control.observe(draw, "value")
    draw()
    return widgets.VBox([widgets.Box([*controls.values()], layout={"flex_flow": "row wrap"}), shown, said])
