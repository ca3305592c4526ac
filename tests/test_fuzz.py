"""Generated inputs through the doors that people use: each gives a right result, or one line and a status not 0.

The same examples every time (see conftest). Every test counts its own, and all together are at least 300.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dgl_lib import maps
from dgl_lib.errors import UserError
from dgl_lib.localize import METHODS, localize
from dgl_lib.models import save_checkpoint, spg_plain
from dgl_lib.study.profile import Profile
from tests import sets
from tests.test_cli import dgl

COUNTS = {"settings": 90, "headers": 45, "weights": 20, "options": 35, "tables": 60, "lists": 40, "pictures": 40}
COUNTS |= {"masks": 15, "localize": 70, "maps": 70}


def test_enough_is_tried() -> None:
    assert sum(COUNTS.values()) >= 300


def tried(door: str, values: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call a test's ``one`` with each of ``COUNTS[door]`` generated values; what it counts must be that many."""

    def run(one: Callable[[Any], None]) -> None:
        ran = []

        @settings(max_examples=COUNTS[door], database=None, suppress_health_check=list(HealthCheck))
        @given(values)
        def each(value: Any) -> None:
            ran.append(value)
            one(value)

        each()
        assert len(ran) >= COUNTS[door], f"{door}: {len(ran)} tried"

    return run


def answered(*arguments: str, at_most: int = 1) -> tuple[int, str]:
    """Run a command. It ends well, or says why not in at most so many lines (after click's usage); no traceback."""
    status, out, err = dgl(*arguments)
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    if status:
        assert status in (1, 2) and lines, (arguments, err)
        said = [line for line in lines if line.lower().startswith(("error: ", "problem: "))]
        assert 1 <= len(said) <= at_most, (arguments, err)
        assert all(len(line) < 2000 for line in said), said
    return status, out


# Values

NUMBERS = ["0", "-1", "1e400", ".inf", "-.inf", ".nan", "1e0", "1.0e+30", "30000", "1000000000", str(2**63), str(2**64)]
NUMBERS += ["9" * 5000, "0x10", "1_0", "1:30", "true", "null", "~", "''", "2020-13-45", "2020-01-01", "3", "0.5"]
YAML = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(
        ["[1,2", "'3", "a: b: c", "[0.75,1e0]", "[1e-2]", "{}", "[]", "[[1]]", "&a [*a]", "*b", "!!python/x 1"]
    ),
    st.sampled_from(
        ["[" * 5000, "\x00", "\x1b", "caf\udce9", "%", "@", "? ", "- ", "\n", "---\n---", "<<: 1", "creatures"]
    ),
    st.lists(st.sampled_from(NUMBERS), max_size=3).map(lambda values: f"[{','.join(values)}]"),
    st.text(max_size=8),
)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Profile] = []
    monkeypatch.setattr("dgl_lib.study.runner.run", lambda chosen, **_: kept.append(chosen) or "there")

    @tried("settings", st.tuples(st.sampled_from([*Profile.model_fields, "alfa", ""]), YAML))
    def one(pair: tuple[str, str]) -> None:
        status, _ = answered("train", "quick", "--quiet", "--set", "=".join(pair))
        assert status in (0, 2)
        if status == 0:
            value = getattr(kept.pop(), pair[0])
            for number in value if isinstance(value, list) else [value]:
                assert isinstance(number, str | bool) or -1 < number < 2**63, pair


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
).map(json.dumps)
BAD = [
    "null",
    '"1"',
    "[1]",
    "5",
    '"abc"',
    "[null]",
    "[]",
    '["a"]',
    "NaN",
    "[NaN,1,1]",
    "[1,1]",
    "[1,1,1,1]",
    "[-1,1,1]",
    "",
]
BAD += [
    '{"resize": "abc"}',
    '{"resize": NaN}',
    '{"resize": 1e9}',
    '{"resize": true}',
    '["\\ud800"]',
    "[" * 9000,
    "9" * 5000,
]


def test_headers(tmp_path: Path) -> None:
    good, path = tmp_path / "good.safetensors", tmp_path / "x.safetensors"
    model = spg_plain(2, width=1 / 16)
    save_checkpoint(model, good, resize=32)
    keys = [
        "width",
        "classes",
        "facts",
        "mean",
        "std",
        "freeze_batch_norm",
        "padding",
        "architecture",
        "source",
        "other",
    ]
    keys += ["count_include_pad"]
    header = {"architecture": "spg_plain", "width": "0.0625", "classes": '["a", "b"]', "facts": '{"resize": 32}'}

    @tried("headers", st.tuples(st.sampled_from(keys), st.sampled_from(BAD) | JSON))
    def one(pair: tuple[str, str]) -> None:
        save_file(model.state_dict(), path, header | dict([pair]))
        status, out = answered("layers", "--checkpoint", str(path), "--json", "--device", "cpu")
        if status == 0:
            document = json.loads(out)
            assert document["size"] >= 32 and len(document["layers"]) == 10


def test_weights(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(num_classes=2).state_dict()
    path, *_, head = tmp_path / "x.pth", list(state)[-1]
    values = [
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(0, 512, 1, 1),
        torch.full((2,), float("nan")),
        torch.zeros(2),
    ]
    values += [
        torch.zeros(3),
        torch.zeros(2, 2),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bool),
    ]
    values += [torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.float8_e4m3fn), 3, None, "x", [1.0]]
    keys = st.sampled_from([head, "features.0.bias", "more", 1, None, ("a",)])

    @tried("weights", st.tuples(keys, st.sampled_from(range(len(values)))))
    def one(pair: tuple[Any, int]) -> None:
        torch.save(state | {pair[0]: values[pair[1]]}, path)
        weights = ("--model", "squeezenet1_1", "--weights", str(path))
        answered("layers", *weights, "--size", "64", "--json", "--device", "cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of cups and spoons that takes photographs of 32 px."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    model = spg_plain(2, width=1 / 16)
    model.classes = ("cup", "spoon")
    save_checkpoint(model, path, resize=32)
    return path


def test_options(small: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    common = ("localize", str(tmp_path / "a.png"), "--checkpoint", str(small), "--out", str(tmp_path / "out"), "--json")
    names = ["--layer", "--method", "--class", "--scales", "--close", "--threshold", "--device", "--weights", "--model"]
    texts = [
        "",
        "0",
        "1",
        "-1",
        "nan",
        "inf",
        "1e400",
        "9" * 5000,
        "0.5",
        "1,1",
        "1,x",
        ",",
        "1_0",
        "128",
        "1000",
        "cpu",
    ]
    texts += [
        "cup",
        "spo",
        "\udce9",
        "caf\xe9",
        "\x1b[1m",
        "a" * 300,
        "Mixed_6e",
        "fc",
        "dgl",
        "cam",
        "none",
        "0.99",
        "２",
    ]

    @tried("options", st.tuples(st.sampled_from(names), st.sampled_from(texts)))
    def one(pair: tuple[str, str]) -> None:
        status, out = answered(*common, f"{pair[0]}={pair[1]}")
        assert status in (0, 2)
        if status == 0:
            assert [(image["width"], image["height"]) for image in json.loads(out)["images"]] == [(9, 7)]


# Files

CELLS = st.one_of(
    st.sampled_from(
        ["", "nan", "1", "-0.5", "2_0", "1e999", "9" * 5000, "x" * 131073, "a\0b", '"', "é", "\r", "|", "$%&_#"]
    ),
    st.text(max_size=5),
)
LINES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=4).map("\n".join)
TABLE = st.one_of(
    LINES.map(lambda text: text.encode(errors="surrogateescape")),
    LINES.map(lambda text: ("name,iou\n" + text).encode("utf-16")),
    st.sampled_from(
        [b"", b"\n", b"\xef\xbb\xbf", b"caf\xe9,b\n1,2\n", b"a,b\n1\n1,2,3\n", b'a,b\n"1,2\n', b"a,a\n1,2\n"]
    ),
    st.binary(max_size=30),
)


def test_tables(tmp_path: Path) -> None:
    forms = st.sampled_from(["markdown", "latex", "csv", "json"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b/claims.csv").write_text("name,iou\na,1\n")

    @tried("tables", st.tuples(TABLE, forms))
    def one(pair: tuple[bytes, str]) -> None:
        (tmp_path / "claims.csv").write_bytes(pair[0])
        status, out = answered("results", str(tmp_path), "--table", "claims", "--format", pair[1])
        assert status in (0, 2)
        if status == 0 and pair[1] == "json":
            json.loads(out)
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a/claims.csv").write_bytes(pair[0])
        status, out, err = dgl("compare", str(tmp_path / "a"), str(tmp_path / "b"))
        assert (status, err) in ((0, ""), (1, "")) and out.count("\n") == status


def test_lists(tmp_path: Path) -> None:
    root = sets.folder(tmp_path / "mine")
    good = "image,x0,y0,x1,y1\n"
    rows = st.lists(
        st.tuples(st.sampled_from(["cup/0.jpg", "spoon/9.jpg", "../x.jpg", ""]), CELLS, CELLS, CELLS, CELLS)
    )
    boxes = rows.map(lambda found: (good + "\n".join(map(",".join, found))).encode(errors="surrogateescape"))

    @tried("lists", st.tuples(st.sampled_from(["boxes.csv", "splits.csv"]), TABLE | boxes))
    def one(pair: tuple[str, bytes]) -> None:
        (root / pair[0]).write_bytes(pair[1])
        answered("data", "check", "folder", "--root", str(root), at_most=3)
        (root / pair[0]).unlink()


def pictures() -> list[bytes]:
    """Small pictures in every form that is read."""
    import io

    found = []
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    for form, mode in (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("TIFF", "L"),
        ("BMP", "1"),
    ):
        stream = io.BytesIO()
        (image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)).save(stream, form)
        found.append(stream.getvalue())
    return found


def damaged(whole: bytes, cut: int, at: int, byte: int) -> bytes:
    part = bytearray(whole[: len(whole) * cut // 100])
    if part:
        part[at % len(part)] = byte
    return bytes(part)


PICTURE = st.builds(
    damaged,
    st.sampled_from(pictures()),
    st.sampled_from([100, 100, 99, 60, 5, 0]),
    st.integers(0, 60),
    st.integers(0, 255),
)


def test_pictures(small: Path, tmp_path: Path) -> None:
    names = st.sampled_from(
        ["a.png", "b.jpg", "caf\xe9.jpg", os.fsdecode(b"caf\xe9.gif"), "a.overlay.png", "-.png", "*.bmp", "a\n.png"]
    )

    @tried("pictures", st.tuples(names, PICTURE))
    def one(pair: tuple[str, bytes]) -> None:
        file, out = tmp_path / pair[0], tmp_path / "out"
        file.write_bytes(pair[1])
        status, _ = answered("localize", str(file), "--checkpoint", str(small), "--out", str(out), "--device", "cpu")
        [image] = json.loads((out / "boxes.json").read_text())["images"] or [None]
        assert status == (1 if image is None else 0)
        if image:
            assert image["file_name"] == str(file) and Image.open(image["map"]).size == (
                image["width"],
                image["height"],
            )
        file.unlink()


def test_masks(tmp_path: Path) -> None:
    root = sets.folder(tmp_path / "mine")
    mask = root / "masks/cup/2.png"  # of the test part

    @tried("masks", PICTURE)
    def one(content: bytes) -> None:
        mask.write_bytes(content)
        answered("data", "check", "folder", "--root", str(root), at_most=3)


# Calls

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
SPECIAL = [0.0, -1.0, float("nan"), float("inf"), 3e38, -3e38, 1e-45, 60000.0]
DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def filled(shape: list[int], value: float, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if x.numel():
        x.view(-1)[0] = value
    return x.to(dtype)


SHAPES = [[2, 3, 8, 8], [1, 3, 8, 8], [0, 3, 8, 8], [2, 3, 0, 8], [3, 8, 8], [2], [], [2, 3, 3, 3]]
TENSORS = st.builds(filled, st.sampled_from(SHAPES), st.sampled_from(SPECIAL), st.sampled_from(DTYPES))
CLASSES = [
    None,
    [0, 1],
    [0, 3],
    [-1, 0],
    [True, False],
    [0.5, 1],
    [1j, 0],
    [],
    [[0], [1]],
    1,
    [2**40, 0],
    np.array([0, 1], np.uint64),
]


def test_localize() -> None:
    images = st.just(filled(SHAPES[0], 0.5, torch.float32)) | TENSORS
    classes = st.just(None) | st.sampled_from(CLASSES)
    layers = st.sampled_from([["0"], ["0", "1"], ["0", "0"], ["9"], [], "0", ["4"], ["2"], [""]])
    methods = st.sampled_from([["dgl"], list(METHODS), ["cam"], ["x"], [], "dgl", ["dgl", "dgl"], [""]])
    alpha = st.just(10.0) | st.sampled_from([*SPECIAL, 1e39, 1e6, 1e-300, True])
    how = st.fixed_dictionaries({"alpha": alpha, "rule": st.sampled_from(["released", "autograd", "x"])})

    @tried("localize", st.tuples(images, classes, layers, methods, how))
    def one(given: tuple) -> None:
        *arguments, how = given
        try:
            out = localize(MODEL, *arguments, **how)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(m.isfinite().all() for of in out.maps.values() for m in of.values()) and out.maps


def test_maps() -> None:
    def is_unit(m: torch.Tensor) -> bool:
        return bool(m.isfinite().all() and (m >= 0).all() and (m <= 1).all())

    calls: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda m, how=how: maps.normalise(m, how) for how in maps.NORMALISATIONS
    ]
    calls += [lambda m, f=f: maps.close(maps.minmax(m), f) for f in (0.0, 0.5, 0.99, 1.0, -1.0, float("nan"))]
    calls += [
        lambda m: maps.close(m, 0.5),
        lambda m: maps.fuse([m, m], "max"),
        lambda m: maps.multiscale([m, -m], (5, 4)),
    ]
    calls += [lambda m: torch.from_numpy(maps.to_uint8(m)) / 255, lambda m: maps.fuse([m, m]), lambda m: maps.fuse([])]

    @tried("maps", st.tuples(TENSORS, st.sampled_from(range(len(calls)))))
    def one(pair: tuple[torch.Tensor, int]) -> None:
        m, call = pair
        if m.is_complex():
            return
        try:
            assert is_unit(calls[call](m))
        except UserError as error:
            assert "\n" not in str(error)
