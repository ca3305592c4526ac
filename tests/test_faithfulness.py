"""Insertion, deletion and randomised weights: curves known in closed form, the cascade's order, resuming."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sets import Toy
from torch import Tensor, nn

from dgl_lib.errors import UserError
from dgl_lib.evaluate import faithfulness
from dgl_lib.evaluate.controls import spearman
from dgl_lib.evaluate.faithfulness import all_curves, auc_table, curves_table, in_turn, randomisation
from dgl_lib.localize import METHODS
from dgl_lib.metrics import faithfulness as metric
from dgl_lib.metrics.faithfulness import STEPS, area, blocks, blur, curves, probability, randomise, ranking
from dgl_lib.models import SPGPlain, digest, preprocess, resnet50_se, spg_plain, vgg16_gap

SIZE = 30  # 900 pixels: every step takes exactly 45
PAIR = ("dgl", "Mixed_6e")


class Knows(nn.Module):
    """A network of two classes whose p of class 0 is ``p(images)``."""

    def __init__(self, p):  # type: ignore[no-untyped-def]
        super().__init__()
        self.p, self.calls = p, list[int]()  # how many images each

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        p = self.p(images).double().clamp(1e-12, 1)
        return torch.stack([p.log(), (1 - p).clamp_min(1e-12).log()], 1)


def share_of_ones() -> Knows:
    return Knows(lambda images: images.mean((1, 2, 3)))


@pytest.fixture
def no_blur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "blur", torch.zeros_like)


# ----------------------------------------------------------------------------------------------------- the curves


@pytest.mark.usefixtures("no_blur")
def test_a_network_that_counts_pixels_gives_straight_lines() -> None:
    m = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    insertion, deletion = curves(share_of_ones(), torch.ones(3, SIZE, SIZE), 0, {PAIR: m})[PAIR]
    np.testing.assert_allclose(insertion, np.arange(STEPS + 1) / STEPS, atol=1e-9)
    np.testing.assert_allclose(deletion, 1 - np.arange(STEPS + 1) / STEPS, atol=1e-9)
    assert area(insertion) == pytest.approx(0.5) and area(deletion) == pytest.approx(0.5)


@pytest.mark.usefixtures("no_blur")
@pytest.mark.parametrize(("value", "step"), [(1.0, 1), (-1.0, STEPS)])
def test_a_network_that_looks_at_one_pixel_gives_a_step(value: float, step: int) -> None:
    """The map ranks that pixel first (it comes with the first step) or last (with the last)."""
    m = torch.zeros(SIZE, SIZE)
    m[7, 3] = value
    network = Knows(lambda images: images[:, 0, 7, 3])
    insertion, deletion = curves(network, torch.ones(3, SIZE, SIZE), 0, {PAIR: m})[PAIR]
    expected = (np.arange(STEPS + 1) >= step).astype(float)
    np.testing.assert_allclose(insertion, expected, atol=1e-9)
    np.testing.assert_allclose(deletion, 1 - expected, atol=1e-9)
    assert area(insertion) == pytest.approx(1 - (step - 0.5) / STEPS)


def test_the_ends_are_the_whole_the_blank_and_the_blurred_image() -> None:
    torch.manual_seed(0)
    model, image = spg_plain(3, width=1 / 16).eval(), torch.randn(3, 32, 32)
    insertion, deletion = curves(model, image, 2, {PAIR: torch.rand(4, 4)})[PAIR]
    ends = probability(model, torch.stack([image, torch.zeros_like(image), blur(image)]), 2)
    np.testing.assert_allclose([deletion[0], deletion[-1], insertion[0]], ends)
    assert insertion[-1] == deletion[0]


def test_five_images_run_at_a_time() -> None:
    network = share_of_ones()
    images = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(probability(network, images, 0), images.mean((1, 2, 3)), rtol=1e-6)
    assert network.calls == [5, 5, 2]


def test_probabilities_in_bfloat16_come_from_a_softmax_in_float32() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.randn(4, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images).detach()
    assert rounded.dtype == torch.bfloat16
    found = probability(model, images, 1, bf16=True)
    np.testing.assert_array_equal(found, rounded.float().softmax(1)[:, 1].double())
    assert (found != probability(model, images, 1)).all()


@pytest.mark.usefixtures("no_blur")
def test_maps_that_agree_are_run_once() -> None:
    network, m = share_of_ones(), torch.rand(4, 4)
    maps = {("cam", "add1"): m, ("dgl", "add1"): 3 * m + 2, ("sgl_g1", "add1"): -m}
    found = curves(network, torch.ones(3, SIZE, SIZE), 0, maps)
    assert sum(network.calls) == 3 + 2 * 2 * (STEPS - 1)  # three ends, two rankings, both curves
    assert found["cam", "add1"] is found["dgl", "add1"] is not found["sgl_g1", "add1"]


def test_area_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "STEPS", 4)
    assert area(np.array([0.0, 0.5, 0.5, 1.0, 1.0])) == pytest.approx((0.25 + 0.5 + 0.75 + 1.0) / 4)
    assert area(np.ones((2, 3, 5))).shape == (2, 3)


def test_blur_keeps_a_plain_image_and_takes_away_fine_detail() -> None:
    plain = torch.full((3, 32, 32), 0.7)
    torch.testing.assert_close(blur(plain), plain)
    board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).expand(3, 32, 32) * 2.0 - 1
    assert blur(board).abs().max() < 0.05


# ---------------------------------------------------------------------------------------------------- the ranking


def test_ranking_by_hand() -> None:
    assert ranking(torch.tensor([[0.1, 0.9], [-5.0, 0.5]]), 2).tolist() == [[2, 0], [3, 1]]


@given(st.lists(st.integers(0, 3), min_size=36, max_size=36), st.floats(0.1, 10), st.floats(-5, 5))
def test_ranking_is_a_permutation_that_follows_the_map(values: list[int], scale: float, shift: float) -> None:
    m = torch.tensor(values, dtype=torch.float64).reshape(6, 6)
    place = ranking(m, 6)
    assert sorted(place.flatten().tolist()) == list(range(36))
    in_order = m.flatten()[place.flatten().argsort()]
    assert (in_order.diff() <= 0).all()
    assert torch.equal(place, ranking(m * scale + shift, 6))


def test_the_settings_of_every_table() -> None:
    """Twenty steps; equal pixels in the order of seed 0; a blur of 0.11 sides, cut off at two standard deviations."""
    assert STEPS == 20
    order = torch.randperm(SIZE**2, generator=torch.Generator().manual_seed(0))
    assert ranking(torch.zeros(2, 2), SIZE).flatten()[order].tolist() == list(range(SIZE**2))
    dot = torch.zeros(3, 101, 101)
    dot[:, 50, 50] = 1
    reach = (torch.arange(-50, 51)).abs()
    bell = torch.exp(-(reach**2) / (2 * (0.11 * 101) ** 2)) * (reach <= 22)
    torch.testing.assert_close(blur(dot)[0], torch.outer(bell, bell) / bell.sum() ** 2)


def test_equal_pixels_keep_one_random_order() -> None:
    everywhere = ranking(torch.zeros(1, 1), SIZE)  # the baseline "random order"
    assert torch.equal(everywhere, ranking(torch.full((3, 3), 7.0), SIZE))
    assert (everywhere.flatten().diff() > 0).float().mean() < 0.7  # not the reading order
    m = torch.zeros(SIZE, SIZE)
    m[:5] = 1
    place = ranking(m, SIZE)
    for region, first in ((m == 1, 0), (m == 0, 5 * SIZE)):
        assert sorted(place[region].tolist()) == list(range(first, first + int(region.sum())))
        assert torch.equal(place[region].argsort(), everywhere[region].argsort())


# -------------------------------------------------------------------------------------------- many images, resumed


LOCALIZING = {"size": 32, "alpha": 10.0, "rule": "released", "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> SPGPlain:
    torch.manual_seed(0)
    return spg_plain(3, width=1 / 16).eval()


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "STEPS", 3)


def some_maps(count: int) -> dict[tuple[str, str], np.ndarray]:
    random = np.random.default_rng(0)
    return {pair: random.normal(size=(count, 4, 4)) for pair in (("dgl", "add2"), ("pixel_selection", "add1"))}


@pytest.mark.usefixtures("few_steps")
def test_a_broken_off_run_goes_on(model: SPGPlain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = some_maps(3)
    whole = all_curves(model, Toy("test", 3), maps, LOCALIZING, resize=32, folder=tmp_path / "one")
    real, seen = curves, []

    def breaks(*arguments, **options):  # type: ignore[no-untyped-def]
        seen.append(list(arguments[3]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(metric, "curves", breaks)
    with pytest.raises(KeyboardInterrupt):
        all_curves(model, Toy("test", 3), maps, LOCALIZING, resize=32, folder=tmp_path / "two")
    again = all_curves(model, Toy("test", 3), maps, LOCALIZING, resize=32, folder=tmp_path / "two")
    assert len(seen) == 4  # two images, the one broken off, and only that one again
    assert list(again) == list(whole) == [*maps, ("random_order", ""), ("centred_gaussian", "")]
    assert all(np.array_equal(again[pair], whole[pair]) for pair in whole)
    assert whole["dgl", "add2"].shape == (3, 2, 4)
    more = maps | {("cam", "add1"): maps["dgl", "add2"]}  # one method more: it alone is computed
    all_curves(model, Toy("test", 3), more, LOCALIZING, resize=32, folder=tmp_path / "two")
    assert seen[4:] == [[("cam", "add1")]] * 3


@pytest.mark.usefixtures("few_steps")
def test_other_settings_are_not_mistaken_for_these(model: SPGPlain, tmp_path: Path) -> None:
    maps = some_maps(1)
    changes = ({}, {"alpha": 5.0}, {"rule": "autograd"}, {"size": 40})
    for localizing, resize in (*((LOCALIZING | change, 32) for change in changes), (LOCALIZING, 40)):
        all_curves(model, Toy("test", 1), maps, localizing, resize=resize, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_bfloat16_is_asked_for_where_it_is_fast_and_compared_with_float32(
    model: SPGPlain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = some_maps(2)
    learned = deepcopy(model)
    with torch.no_grad():  # far from equal logits, so that digits show
        learned.fc.weight.mul_(100)
    found = {}
    for bf16 in (False, True):
        monkeypatch.setattr(faithfulness, "bf16_is_fast", lambda _device, bf16=bf16: bf16)
        found[bf16] = all_curves(learned, Toy("test", 2), maps, LOCALIZING, resize=32, folder=tmp_path)["dgl", "add2"]
        table = faithfulness.rounding(learned, Toy("test", 2), maps["dgl", "add2"], 32, "cpu")
        assert len(table) == (6 if bf16 else 0)
    assert 0 < np.abs(found[True] - found[False]).max() < 0.05
    for i, (_, rows) in enumerate(table.groupby("image", sort=False)):
        half = STEPS // 2
        for column, of in (("float32", found[False][i]), ("bfloat16", found[True][i])):
            np.testing.assert_allclose(rows[column], [of[0, -1], of[0, half], of[1, half]], atol=0.02)
    assert (table["float32"] != table["bfloat16"]).any()
    np.testing.assert_allclose(table["float32"].iloc[0], found[False][0, 0, -1], rtol=1e-4)


def test_images_come_class_by_class_in_turn() -> None:
    assert in_turn(np.array([0, 0, 0, 1, 1, 2]), 5) == [0, 3, 5, 1, 4]
    assert in_turn(np.array([0, 1, 0, 1]), 9) == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------- randomised weights


@pytest.mark.parametrize(
    ("make", "first", "last"),
    [
        (spg_plain, ["head", "add1", "add2", "Mixed_6e"], ["Mixed_5b", "stem"]),
        (vgg16_gap, ["head", "add", "conv5_3"], ["conv1_2", "conv1_1"]),
        (resnet50_se, ["head"], ["stem"]),
    ],
)
def test_blocks_run_from_the_head_down_and_leave_nothing_out(make, first: list[str], last: list[str]) -> None:  # type: ignore[no-untyped-def]
    model = make(3, width=1 / 16)
    found = blocks(model, [layer.name for layer in model.layers])
    names = list(found)
    assert names[: len(first)] == first and names[-len(last) :] == last
    modules = [module for block in found.values() for module in block]
    assert len(modules) == len(set(modules))
    own = {id(weight) for module in modules for weight in module.parameters(recurse=False)}
    assert own == {id(weight) for weight in model.parameters()}


def test_what_leads_to_a_layer_belongs_to_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1, 2))
    assert blocks(model, ["1", "3"]) == {"head": [model[5]], "3": [model[2]], "stem": [model[0]]}


def test_randomise_forgets_all_and_refuses_what_it_cannot_reset() -> None:
    norm, convolution = nn.BatchNorm2d(4), nn.Conv2d(2, 4, 3)
    for weight in [*norm.parameters(), *norm.buffers(), *convolution.parameters()]:
        weight.data = torch.full_like(weight, 3)
    randomise([norm, convolution])
    assert norm.running_mean.abs().max() == 0 and (norm.running_var == 1).all() and (norm.weight == 1).all()
    assert (convolution.weight != 3).all() and (convolution.bias == 0).all()

    class Odd(nn.Module):
        pass

    with pytest.raises(UserError, match=r"randomise: Odd given, a module with reset_parameters needed"):
        randomise([Odd()])


def test_randomisation_cascades_on_a_copy(model: SPGPlain) -> None:
    before, data = digest(model), Toy("test", 2)
    table = randomisation(model, data, "Mixed_6e", LOCALIZING)
    assert digest(model) == before and not model.training
    state = torch.get_rng_state()
    pd.testing.assert_frame_equal(table, randomisation(model, data, "Mixed_6e", LOCALIZING))
    assert torch.equal(state, torch.get_rng_state())
    assert list(table["method"].unique()) == [*METHODS, "features"]
    steps = table.drop_duplicates("step")["block"].tolist()
    order = ["head", "add1", "add2", "Mixed_6e", "Mixed_6d", "Mixed_6c", "Mixed_6b", "Mixed_6a"]
    assert steps == ["", *order, "Mixed_5d", "Mixed_5c", "Mixed_5b", "stem"]
    plain = table[table["method"] == "features"].set_index("block")["correlation"]
    np.testing.assert_allclose(plain[["", "head", "add1", "add2"]], 1)  # nothing below them has changed yet
    assert plain["Mixed_6e"] < 0.999
    dgl = table[table["method"] == "dgl"].set_index("block")["correlation"]
    assert dgl[""] == pytest.approx(1) and dgl["head"] < 0.999
    assert set(table.loc[table["method"] == "cam", "layer"]) == {"add1"}
    # The second step's head is the first step's: one block more, none drawn twice.
    torch.manual_seed(metric.SEED)
    twin = spg_plain(3, width=1 / 16)
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(metric.SEED)
    for block in ("head", "add1"):
        randomise(blocks(twin, [layer.name for layer in twin.layers])[block])
    images = preprocess(model, [data.image(i) for i in range(2)], 32)
    labels = data.labels.tolist()
    pair = [METHODS["dgl"](m.eval(), images, labels, ["Mixed_6e"])["Mixed_6e"].numpy() for m in (model, twin)]
    assert dgl["add1"] == pytest.approx(spearman(*pair).mean(), abs=1e-3)


# --------------------------------------------------------------------------------------------------------- tables


def test_differences_are_paired() -> None:
    """DGL's curves lie 0.1 above pixel selection's at every step, on every image."""
    base = np.random.default_rng(0).uniform(0.2, 0.6, size=(12, 2, STEPS + 1))
    found = {("pixel_selection", "add1"): base, ("dgl", "add1"): base + 0.1, ("random_order", ""): base}
    auc = auc_table(found, {("dgl", "add1"): 40.0, ("pixel_selection", "add1"): 41.0}).set_index("method")
    row = auc.loc["pixel_selection"]
    for end in ("", "_low", "_high"):  # the same on every image: the paired interval has no width
        assert row[f"dgl_insertion{end}"] == pytest.approx(0.1) == row[f"dgl_deletion{end}"]
    assert row["insertion_high"] - row["insertion_low"] > 0.001
    assert auc.loc["dgl", ["dgl_insertion", "dgl_deletion"]].isna().all()
    assert auc["val_iou"].fillna(-1).tolist() == [41, 40, -1]
    table = curves_table(found)
    first = table[table["method"] == "dgl"]
    assert list(first["share"]) == [k / STEPS for k in range(STEPS + 1)]
    assert area(first["insertion"].to_numpy()) == pytest.approx(auc.loc["dgl", "insertion"])
