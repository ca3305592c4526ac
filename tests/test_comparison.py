"""The comparison: verdicts, sentences and answer on scores written down by hand, DGL's two terms, the page itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sets import Toy

from dgl_lib import comparison, evaluation, metrics, paths, readme, study
from dgl_lib.evaluate.compare import TWELVE, gradient_share, thirds, verdict, worst
from dgl_lib.data.records import Record
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, raw_maps
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics import Interval
from dgl_lib.models import SPGPlain, preprocess, spg_plain
from dgl_lib.plots import style

LAYERS, IMAGES, CLASSES = ("Mixed_6e", "add1"), 30, ("cat", "dog", "owl")


# --------------------------------------------------------------------------------------------- scores made by hand


def made(found: dict[tuple[str, str], int], *, images: int = IMAGES) -> tuple[Scores, Maps]:
    """An object of 100 pixels of 1000, of which a row finds ``found`` (IoU in percent) and nothing beside it.

    Half of the object is its telling part, and is found first. Rows that are not named find 20.
    """
    pairs = [(m, layer) for m in (*METHODS, *CONTROLS) for layer in LAYERS if m != "cam" or layer == "add1"]
    pairs += [(name, "") for name in BASELINES]
    hist = np.zeros((len(pairs), images, 4, 256), np.int32)
    hist[:, :, metrics.BACKGROUND, 0] = 900
    for row, pair in enumerate(pairs):
        n = found.get(pair, 20)
        part = min(n, 50)
        hist[row, :, metrics.PART, 200], hist[row, :, metrics.PART, 0] = part, 50 - part
        hist[row, :, metrics.REST, 200], hist[row, :, metrics.REST, 0] = n - part, 50 - (n - part)
    rows = pd.DataFrame(pairs, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    names, labels = [f"image-{i}" for i in range(images)], np.arange(images) % len(CLASSES)
    draw = np.random.default_rng(0)
    maps = {pair: draw.normal(size=(images, 4, 4)).astype(np.float32) for pair in pairs if pair[1]}
    logits = 5 * np.eye(len(CLASSES), dtype=np.float32)[labels]
    return Scores(rows, hist, names, labels, np.ones(images, bool)), Maps(maps, logits, labels)


PERFECT = {("dgl", "Mixed_6e"): 100, ("dgl", "add1"): 60, ("cam", "add1"): 60}


def tables(found: dict[tuple[str, str], int], layer: str = "Mixed_6e", **options: int) -> dict[str, pd.DataFrame]:
    scores, maps = made(found, **options)
    return comparison.compare(scores, scores, maps, CLASSES, layer)


def test_a_perfect_dgl_gains_everywhere() -> None:
    t = tables(PERFECT)
    assert comparison.row_of(t["chosen"].iloc[0]) == {"method": "dgl", "layer": "Mixed_6e"}
    assert set(t["gains"]["verdict"]) == {"gains"} and set(t["where"]["verdict"]) == {"gains"}
    cam = comparison.find(t["gains"], "cam")  # once: on Mixed_6e there is none
    assert (cam["at"], cam["layer"], cam["mean"], cam["low"], cam["high"], cam["images"]) == (
        "own",
        "add1",
        40,
        40,
        40,
        30,
    )
    text = comparison.findings(t, "Mixed_6e")
    assert "**The best of all** on validation is DGL on Mixed_6e, with a test IoU of 100.0 % [100.0, 100.0]" in text
    assert "10 of 10 methods" not in text and "2 of 10 methods, each on its best layer, gain on that baseline." in text
    assert "**DGL** is number 1 of 10 on validation" in text
    assert "**Each on its best layer,** in points of IoU: DGL on Mixed_6e gains on CAM on add1 (+40.0), " in text
    [every] = [line for line in text.splitlines() if "**All on Mixed_6e,**" in line]
    assert "DGL gains on " in every and "SGL-G1 (+80.0)" in every and ", CAM (" not in every
    assert "11 of 12 methods and controls find more of the telling part than of the rest, 0 less" in text
    assert "(DGL on Mixed_6e) to +80.0 [+80.0, +80.0] (CAM on add1)" in text
    assert "Of the rest, DGL on Mixed_6e finds most, 100.0 %" in text
    assert "\n| CAM | add1 | 60.0 % [60.0, 60.0] | +40.0 [+40.0, +40.0] |  | 100.0 % | 20.0 % | 100.0 % |" in text
    assert "loses to" not in text and "undecided between" not in text
    assert comparison.answer(t, "toy") == (
        "On toy, **DGL on Mixed_6e** localized best on validation among 10 methods, each on its best layer; its mean "
        "test IoU is **100.0 % [100.0, 100.0]**. On the same test images, the runner-up of validation (CAM on add1) "
        "reaches 60.0 %, plain features on Mixed_6e, which know no class, 20.0 %, the whole image 20.0 % and the "
        "centred Gaussian 20.0 %."
    )


def test_a_dgl_that_loses_says_so() -> None:
    t = tables({("cam", "add1"): 70, ("features", "add1"): 80, ("whole_image", ""): 30, ("dgl", "Mixed_6e"): 25})
    text = comparison.findings(t, "Mixed_6e")
    assert "is CAM on add1, with a test IoU of 70.0 %" in text
    assert "No method does better on validation than plain features on add1, which is no method but a control." in text
    assert "**DGL** is number 2 of 10 on validation, on Mixed_6e" in text
    assert "loses to plain features on add1 (-55.0), CAM on add1 (-45.0)" in text
    assert "it gains on the whole image, +40.0 points" in text  # the better baseline, of 20 and 30
    assert comparison.answer(t, "toy").endswith(
        "and the centred Gaussian 20.0 %; on validation plain features on add1 did better than any method."
    )


def test_a_dgl_on_the_same_level_and_one_of_too_few_images() -> None:
    text = comparison.findings(tables({}), "Mixed_6e")
    assert "DGL on Mixed_6e is level with " in text and "gains on" not in text.partition("- **The squared")[0]
    t = tables(PERFECT, images=comparison.FEWEST - 1)
    assert set(t["gains"]["verdict"]) == {"undecided"}
    text = comparison.findings(t, "Mixed_6e")
    assert "DGL on Mixed_6e is undecided against CAM on add1 (+40.0)" in text


@pytest.mark.parametrize(
    ("low", "high", "n", "word"),
    [
        *((0.51, 3, 10, "gains"), (0.5, 3, 10, "undecided"), (-3, -0.51, 10, "loses"), (-3, -0.5, 10, "undecided")),
        *((-0.5, 0.5, 10, "level"), (-0.5, 0.6, 10, "undecided"), (0, 0, 9, "undecided"), (2, 3, 9, "undecided")),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, n: int, word: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, n)) == word


@pytest.mark.parametrize("word", ["gains", "loses", "level", "undecided"])
def test_every_verdict_has_its_sentence(word: str) -> None:
    line = {"verdict": word, "mean": -0.04, "low": -0.2, "high": 0.1}
    said = comparison.said("A", "B", line)
    assert said.endswith(", +0.0 points [-0.2, +0.1]") and "-0.0" not in said
    others = {"gains": "gains on", "loses": "loses to", "level": "are level", "undecided": "undecided"}
    assert [key for key, text in others.items() if text in said] == [word]


def test_both_layers_of_dgl_are_compared() -> None:
    """Best on add1, asked for on Mixed_6e: each against the others' own layer and against the same."""
    t = tables({("dgl", "add1"): 90, ("dgl", "Mixed_6e"): 50, ("sgl_g1", "Mixed_6e"): 70, ("sgl_g1", "add1"): 40})
    lines = t["gains"][t["gains"]["method"] == "sgl_g1"]
    assert [tuple(line) for line in lines[["dgl_layer", "at", "layer", "mean"]].to_numpy()] == [
        ("add1", "own", "Mixed_6e", 20),
        ("add1", "same", "add1", 50),
        ("Mixed_6e", "own", "Mixed_6e", -20),
        ("Mixed_6e", "same", "Mixed_6e", -20),
    ]


def test_groups_are_of_the_best_the_best_that_differs_and_cam() -> None:
    t = tables({("dgl", "add1"): 90, ("sgl_g1", "add1"): 90, ("layer_cam", "Mixed_6e"): 60})
    rivals = t["where"][["method", "layer"]].drop_duplicates().to_numpy().tolist()
    assert rivals == [["sgl_g1", "add1"], ["layer_cam", "Mixed_6e"], ["cam", "add1"]]
    one = t["where"][t["where"]["method"] == "cam"]
    assert one["images"].tolist() == [10] * 9  # three classes, three thirds of the area, three of p_c
    assert one["group"].tolist()[:3] == list(CLASSES)


# ------------------------------------------------------------------------------------------------- rules and terms


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_thirds_are_even_and_in_order(values: list[int]) -> None:
    v = np.array(values)
    third = thirds(v)
    sizes = np.bincount(third, minlength=3)
    assert sizes.max() - sizes.min() <= 1
    for low in (0, 1):
        below, above = v[third <= low], v[third > low]
        assert not len(above) or below.max() <= above.min()


def test_the_worst_twelve_and_of_equals_the_earlier() -> None:
    assert worst(np.array([5.0, 1, 5, 1, 0])) == [4, 1, 3, 0, 2]
    assert worst(np.ones(20)) == list(range(TWELVE))
    values = np.arange(40.0)[::-1].copy()
    values[3] = values[39] = -1
    assert worst(values)[:3] == [3, 39, 38] and len(worst(values)) == 12


def test_p_c_keeps_its_order_where_it_is_one() -> None:
    maps = Maps({}, np.array([[60, 0], [80, 0], [0, 1]], np.float32), np.zeros(3, np.int64))
    confidence = comparison.log_p_c(maps, np.zeros(3, np.int64))
    np.testing.assert_allclose(np.exp(confidence), [1, 1, 1 / (1 + np.e)])
    assert confidence[2] < confidence[0] <= confidence[1]


@pytest.fixture(scope="module")
def model() -> SPGPlain:
    torch.manual_seed(0)
    return spg_plain(3, width=1 / 16).eval()


def test_dgl_without_the_gradient_term_is_pixel_selection(model: SPGPlain) -> None:
    """DGL - (-sum G_c n(G_J)) = sum G_c n(S) = pixel selection / ||S||, one positive factor an image."""
    images = preprocess(model, [Toy("test", 3).image(i) for i in range(3)], 32)
    names = ["dgl", "pixel_selection", "gradient_term"]
    maps = evaluation.localize(model.double(), images.double(), [0, 1, 2], ["Mixed_6b"], names).maps
    model.float()
    both, selected, term = (maps[name]["Mixed_6b"].numpy() for name in names)
    ratio = (both - term) / selected
    assert (ratio > 0).all()
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-6)
    np.testing.assert_allclose(gradient_share(both, term) + gradient_share(both, both - term), 1)


def test_the_share_of_a_term() -> None:
    x, y = np.array([[1.0, -1, 0, 0]]).reshape(1, 2, 2), np.array([[0, 0, 1.0, -1]]).reshape(1, 2, 2)
    assert gradient_share(x + y, y) == 0.5 and gradient_share(x + 3 * y, 3 * y) == 0.9
    assert (
        gradient_share(x + y + 3, y + 1) == 0.5 and gradient_share(x + 5, 0 * x + 7) == 0
    )  # the same everywhere: min-max removes it
    assert gradient_share(x, -x) == -1 and np.isnan(gradient_share(0 * x, x)).all()


# ---------------------------------------------------------------------------------------------------------- a page


class Parted(Toy):
    """The left half of the object is its telling part; the fifth image holds no object."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        mask = record.mask & (index != 4)
        return replace(record, mask=mask, part=mask & (np.arange(mask.shape[1]) < 13))


@pytest.mark.filterwarnings("ignore:.*without an object left out")
def test_the_page(model: SPGPlain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"val": Parted("val", 6), "test": Parted("test", 14)}
    what = {"layers": list(LAYERS), "methods": [*METHODS, *CONTROLS], "size": 32, "device": "cpu"}
    maps = {split: raw_maps(model, part, **what) for split, part in data.items()}
    monkeypatch.setattr(study, "every_map", lambda parameters, split, progress: maps[split])
    monkeypatch.setattr(study, "part", lambda parameters, split: data[split])
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    folder = tmp_path / "results" / "toy" / "comparison"
    folder.mkdir(parents=True)
    comparison.make({"data": "toy", "profile": "toy", "layer": "Mixed_6e"}, folder)

    page = (folder / "README.md").read_text()
    figures = {"scores", "gains", "where", "terms", "parts", "worst", "maps_1", "maps_2"}
    assert {path.stem for path in folder.glob("*.png")} == figures
    assert all(f"({name}.png)" in page for name in figures)
    assert all(f"({path.name})" in page for path in folder.glob("*.csv")) and len(list(folder.glob("*.csv"))) == 7
    table = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    assert len(table) == 11 * 2 + 1 + 2 and not table.duplicated(["method", "layer"]).any()  # CAM on one layer only
    extremes = pd.read_csv(folder / "worst.csv")
    first = extremes.loc[extremes["which"] == "first", "image"].tolist()
    assert first == [f"test-{i}" for i in range(14) if i != 4][:12]
    assert (folder / "findings.md").read_text().strip() in page
    assert readme.block("text:toy/comparison/answer.md") == (folder / "answer.md").read_text().strip()


def test_every_method_has_a_name_and_a_colour() -> None:
    assert {*METHODS, *CONTROLS, *BASELINES} <= style.NAMES.keys() & style.COLOURS.keys()
