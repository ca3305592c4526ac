"""Image files of every kind to arrays, parts of a data set, and data sets by name."""

import io
import warnings

import numpy as np
import pytest
import sets
from PIL import Image

from dgl_lib.data import DATASETS, check, first_per_class, load, need_readable, skip_unreadable
from dgl_lib.data.images import image_size, orientation, read_image, read_mask
from dgl_lib.errors import UserError

GREY = np.array([[0, 100, 255], [10, 20, 30]], dtype=np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY // 2], axis=-1)


def saved(tmp_path, image: Image.Image, name: str = "image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_read_image_modes(tmp_path):
    grey = np.repeat(GREY[..., None], 3, axis=-1)
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(COLOUR))), COLOUR)
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(GREY))), grey)
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 257))), grey)
    bilevel = read_image(saved(tmp_path, Image.fromarray(GREY > 15)))
    assert np.array_equal(bilevel, np.repeat(((GREY > 15) * 255)[..., None], 3, axis=-1))
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    low, high = [10, 20, 30], [40, 50, 60]
    assert read_image(saved(tmp_path, palette)).tolist() == [[low, high], [high, low]]
    assert read_image(saved(tmp_path, palette, transparency=1))[0].tolist() == [low, [255, 255, 255]]


def test_read_image_lays_transparency_over_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]  # 255 * (1 - 51/255) = 204
    assert read_image(saved(tmp_path, Image.fromarray(pixels))).tolist() == expected


def test_read_image_cmyk(tmp_path):
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    assert np.abs(read_image(saved(tmp_path, flat, "c.jpg", quality=100)).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_read_image_turns_as_exif_says(tmp_path, orientation, upright):
    for name in ("image.png", "image.jpg"):
        path = saved(tmp_path, Image.fromarray(COLOUR), name, exif=sets.exif(orientation))
        assert image_size(path) == upright(COLOUR).shape[:2]
        assert image_size(path, oriented=False) == COLOUR.shape[:2]
    assert np.array_equal(read_image(tmp_path / "image.png"), upright(COLOUR))


def test_read_image_without_a_fixed_range(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32)), "image.tiff")
    with pytest.raises(UserError, match=r"image\.tiff: 'F' pixels"):
        read_image(path)


def test_read_mask(tmp_path):
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(GREY))), GREY)
    palette = Image.fromarray(GREY, mode="P")
    palette.putpalette(list(range(256)) * 3)
    assert np.array_equal(read_mask(saved(tmp_path, palette)), GREY)
    bilevel = read_mask(saved(tmp_path, Image.fromarray(GREY > 15)))
    assert np.array_equal(bilevel, GREY > 15) and bilevel.dtype == np.uint8
    with pytest.raises(UserError, match=r"image\.png: a mask has one channel .* 'RGB'"):
        read_mask(saved(tmp_path, Image.fromarray(COLOUR)))


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bad_files(tmp_path, read, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / "bad"
    for content in (None, b"", b"text", whole[:10], whole[: len(whole) // 2]):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert read(path).shape[:2] == noise.shape


def test_corrupt_png(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(path)


def test_as_stored(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR), exif=sets.exif(6))
    assert np.array_equal(read_image(path, oriented=False), COLOUR) and orientation(path) == 6
    assert orientation(saved(tmp_path, Image.fromarray(COLOUR))) == 1


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "PNG"), ("a.png", "BMP"), ("a", "TIFF"), ("a.txt", "WEBP")])
def test_a_wrong_extension_does_not_matter(tmp_path, name, kind):
    path = saved(tmp_path, Image.fromarray(COLOUR), name, format=kind, **{"lossless": True} if kind == "WEBP" else {})
    assert np.array_equal(read_image(path), COLOUR)


def test_one_pixel(tmp_path):
    for kind in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"):
        path = saved(tmp_path, Image.new(kind, (1, 1)), "one.tiff")
        assert read_image(path).shape == (1, 1, 3) and image_size(path) == (1, 1)


def test_sixteen_bits(tmp_path):
    values = np.array([[0, 257 * 100, 65535], [127, 128, 129]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        path = saved(tmp_path, Image.fromarray(values), name)
        # 128 / 65535 * 255 = 0.498, 129 / 65535 * 255 = 0.502
        assert read_image(path)[..., 0].tolist() == [[0, 100, 255], [0, 0, 1]]


def test_grey_with_alpha(tmp_path):
    pixels = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
    assert read_image(saved(tmp_path, Image.fromarray(pixels, mode="LA"))).tolist() == [[[200] * 3, [255] * 3]]


def test_large_images_are_decoded_without_a_warning_and_bombs_refused(tmp_path, monkeypatch):
    """10,000 x 10,000 lies between the sizes from which Pillow warns (89 million pixels) and refuses (179 million).

    Both limits are made small here, so that the test is quick.
    """
    path = saved(tmp_path, Image.new("1", (10000, 10000), 1))
    assert image_size(path, oriented=False) == (10000, 10000)
    assert Image.MAX_IMAGE_PIXELS < 10**8 < 2 * Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    path = saved(tmp_path, Image.new("1", (100, 100), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (100, 100, 3) and image_size(path) == (100, 100)
    path = saved(tmp_path, Image.new("1", (200, 100)))
    for read in (read_image, read_mask, image_size):
        with pytest.raises(UserError, match=r"image\.png: cannot be read .*20000 pixels"):
            read(path)


def test_folder_is_no_image(tmp_path):
    with pytest.raises(UserError, match="not a regular file"):
        read_image(tmp_path)


def toy(*labels: int) -> sets.Toy:
    data = sets.Toy("test", len(labels))
    data.classes, data.labels = ("a", "b"), np.array(labels)
    return data


def test_first_per_class():
    data = toy(1, 0, 1, 1, 0, 0)
    assert first_per_class(data, 0) is data
    two = first_per_class(data, 2)
    assert two.names == [f"test-{i}" for i in (0, 1, 2, 4)] and two.labels.tolist() == [1, 0, 1, 0] and len(two) == 4
    assert two[3].name == "test-4" and np.array_equal(two.image(3), data.image(4)) and two[3].label == 0
    assert len({data.digest, two.digest, first_per_class(data, 1).digest}) == 3
    assert len(first_per_class(data, 100)) == 6
    with pytest.raises(UserError, match="-1 given"):
        first_per_class(data, -1)
    with pytest.raises(UserError, match="'b' has no image"):
        first_per_class(toy(0, 0), 1)


def test_load_refuses_unknown_names():
    with pytest.raises(UserError, match="'cats'; allowed: creatures, pets"):
        load("cats", "test")
    for name in ("creatures", "pets"):
        with pytest.raises(UserError, match=f"{name}: unknown split 'trainval'; allowed: train, val, test"):
            load(name, "trainval")


def test_load_pets_not_there(tmp_path):
    with pytest.raises(UserError, match=r"trainval\.txt: no such file"):
        load("pets", "test", root=tmp_path)


def test_load_creatures():
    pytest.importorskip("cv2")
    data = load("creatures", "val", per_class=1)
    assert data.name == "creatures" and data.split == "val"
    assert data.labels.tolist() and sorted(data.labels) == list(range(len(data.classes)))


@pytest.fixture
def broken(tmp_path):
    """Photographs of which two of the training images are empty or cut off."""
    for c in ("cup", "spoon"):
        for i in range(10):
            sets.picture(tmp_path / "images" / c / f"{i}.jpg")
    train = load("folder", "train", root=tmp_path)
    train.path(3).write_bytes(b"")
    train.path(7).write_bytes(train.path(7).read_bytes()[:300])
    return train


def test_unreadable_images_are_left_out_and_counted(broken):
    expected = rf"folder train: 2 of 12 images cannot be read and are left out; the first: .*{broken.names[3]}"
    with pytest.warns(UserWarning, match=expected):
        readable = skip_unreadable(broken)
    assert readable.names == [name for i, name in enumerate(broken.names) if i not in (3, 7)]
    assert readable.digest != broken.digest and skip_unreadable(readable) is readable
    for i in range(len(broken)):
        broken.path(i).write_bytes(b"")
    with pytest.raises(UserError, match="12 of 12 images cannot be read"):
        skip_unreadable(broken)


def test_unreadable_images_are_refused_with_a_count_and_a_name(broken):
    expected = "folder train: 2 of 12 images cannot be read; the first: "
    sets.refused(lambda: need_readable(broken), expected, str(broken.path(3)), "empty")
    need_readable(load("folder", "val", root=broken.root))


def test_load_leaves_out_what_it_is_told_to(broken):
    assert len(load("folder", "train", root=broken.root)) == 12
    with pytest.warns(UserWarning, match="2 of 12 images"):
        assert len(load("folder", "train", root=broken.root, skip=True)) == 10
    with pytest.warns(UserWarning, match="1 of 4 images"):  # only the share that is asked for is decoded
        assert len(load("folder", "train", root=broken.root, per_class=2, skip=True)) == 3


def test_unreadable_masks_count_where_masks_are_needed(tmp_path):
    test = load("folder", "test", root=sets.folder(tmp_path))
    test.annotations(1)[0].write_bytes(b"")
    sets.refused(lambda: need_readable(test), "folder test: 1 of 2 images", ".png")
    with pytest.warns(UserWarning, match=r"folder test: 1 of 2 .*\.png"):
        assert len(skip_unreadable(test)) == 1


def test_check_says_what_is_there_and_what_is_missing(tmp_path):
    root = sets.folder(tmp_path)
    complete, problems = check("folder", root)
    assert complete == [
        "folder train: 6 images of 2 classes; the first has 1 box, mask, ignore, part",
        "folder val: 2 images of 2 classes; the first has 1 box, mask",
        "folder test: 2 images of 2 classes; the first has 1 box, mask",
    ]
    assert problems == []
    load("folder", "val", root=root).annotations(0)[0].unlink()
    train = load("folder", "train", root=root)
    train.path(0).write_bytes(train.path(0).read_bytes()[:-200])
    complete, (first, second) = check("folder", root)
    assert complete == ["folder test: 2 images of 2 classes; the first has 1 box, mask"]
    assert first.startswith("folder train: 1 of 6 images cannot be read; the first: ") and train.names[0] in first
    assert second.startswith("folder val: ") and "1 of 2" in second
    with pytest.raises(UserError, match="'cats'; allowed: creatures"):
        check("cats")


def test_check_decodes_a_set_of_lists_where_told_to(tmp_path):
    train = load("cub", "train", root=sets.cub(tmp_path))
    train.path(3).write_bytes(train.path(3).read_bytes()[:300])
    assert not check("cub", tmp_path)[1]
    complete, problems = check("cub", tmp_path, decode=True)
    assert len(complete) == 2 and len(problems) == 1 and train.names[3] in problems[0]
    assert problems[0].startswith("cub train: 1 of 8 images cannot be read")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "creatures"])
def test_nothing_there(tmp_path, name, monkeypatch):
    monkeypatch.delenv("DGL_WSOL_METADATA", raising=False)
    complete, problems = check(name, tmp_path)
    assert not complete and len(problems) == 3
    assert all(
        problem.startswith(f"{name} ") and str(tmp_path) in problem and "\n" not in problem for problem in problems
    )


def test_no_folder_named(monkeypatch):
    monkeypatch.delenv("DGL_DATA", raising=False)
    with pytest.raises(UserError, match="lid: neither root nor DGL_DATA is set"):
        load("lid", "test")
