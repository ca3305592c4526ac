"""The reader of CUB-200-2011's layout, on a small set drawn by ``sets.cub``."""

from pathlib import Path

import numpy as np
import pytest
import sets
from sets import refused

from dgl_lib.data import cub
from dgl_lib.data.cub import Cub


def test_record(tmp_path):
    record = Cub("test", sets.cub(tmp_path))[0]
    assert record.name == "001.Black_footed_Albatross/Bird_0007_49.jpg" and record.label == 0
    # 6.0 2.0 26.0 15.0: x + width = 32 is beyond the last column, 31.
    assert record.boxes.tolist() == [[6, 2, 31, 17]]
    expected = np.zeros((24, 32), bool)
    expected[4:13, 8:21] = True  # four of five votes; the row with two of five is no bird
    assert np.array_equal(record.mask, expected) and record.part is record.ignore is None


def test_roles(tmp_path):
    root = sets.cub(tmp_path)
    train, val, test = (Cub(split, root) for split in ("train", "val", "test"))
    numbers = [[int(name.split("_")[-2]) for name in data.names[: len(data) // 2]] for data in (train, val, test)]
    assert numbers == [[2, 3, 4, 5], [1, 6], [7, 8]]  # of 1 to 6, sorted, positions 0 and 5 are held out
    assert train.classes == sets.BIRDS and val.labels.tolist() == [0, 0, 1, 1]
    test.check()


def test_without_segmentations(tmp_path):
    data = Cub("test", sets.cub(tmp_path, masks=False))
    assert data[0].mask is None and len(data[0].boxes) == 1 and data.annotations(0) == []
    with_masks = Cub("test", sets.cub(tmp_path / "other"))
    assert data.digest != with_masks.digest
    (tmp_path / "other/segmentations").rename(tmp_path / "CUB_200_2011/segmentations")
    assert Cub("test", tmp_path).digest == with_masks.digest


@pytest.mark.parametrize(
    ("file", "line", "text", "expected"),
    [
        ("images.txt", 6, "7", ["images.txt, line 7", "2 values (id,path)"]),
        ("images.txt", 6, "1 x.jpg", ["images.txt", "'1' is listed twice"]),
        ("images.txt", 6, "8 x.jpg", ["'8' is listed twice"]),
        ("images.txt", 6, "7 001.Black_footed_Albatross/Bird_0008_56.jpg", ["a path is listed twice"]),
        ("images.txt", 6, "7 x.jpg", ["images/x.jpg", "1 of 4 cub test photographs"]),
        ("images.txt", 6, "7 ../../../secret.jpg", ["secret.jpg: lies outside of", "1 of 4 cub test photographs"]),
        ("images.txt", 6, "7 {above}/secret.jpg", ["secret.jpg: lies outside of", "1 of 4 cub test photographs"]),
        ("train_test_split.txt", 6, "", ["train_test_split.txt", "no line for '7' of images.txt; 1 of 16"]),
        ("train_test_split.txt", 6, "7 2", ["id 7", "'2' given, 0 or 1"]),
        ("image_class_labels.txt", 6, "7 3", ["image_class_labels.txt, id 7", "class 3 is not in classes.txt"]),
        ("image_class_labels.txt", 6, "7 0", ["class 0 is not in classes.txt"]),
        ("bounding_boxes.txt", 6, "7 1 2 3", ["line 7", "5 values (id,x,y,w,h)"]),
        ("bounding_boxes.txt", 6, "7 1 2 3 wide", ["id 7", "1, 2, 3, wide", "four numbers"]),
        ("bounding_boxes.txt", 6, "7 -1 2 3 4", ["id 7", "box -1, 2, 2, 6"]),
        ("classes.txt", 1, "3 Bird", ["classes.txt", "without a gap"]),
    ],
)
def test_broken_lists(tmp_path, file, line, text, expected):
    root = sets.cub(tmp_path / "data")
    sets.picture(tmp_path / "secret.jpg")
    path = root / "CUB_200_2011" / file
    lines = path.read_text().splitlines()
    lines[line] = text.format(above=tmp_path)
    path.write_text("\n".join(lines))
    refused(lambda: Cub("test", root), *expected)


def test_box_outside_of_the_image(tmp_path):
    path = sets.cub(tmp_path) / "CUB_200_2011/bounding_boxes.txt"
    path.write_text(path.read_text().replace("7 6.0 2.0 26.0", "7 40.0 2.0 3.0"))
    refused(Cub("test", tmp_path).check, "Bird_0007_49.jpg", "within 32x24")


def test_missing_mask(tmp_path):
    root = sets.cub(tmp_path)
    Cub("test", root).annotations(0)[0].unlink()
    refused(lambda: Cub("test", root), "Bird_0007_49.png", "1 of 4 cub test masks")
    assert len(Cub("train", root)) == 8


def test_download_states_its_checksums(tmp_path, monkeypatch):
    """Both archives land where the reader looks; what is there is not fetched again, and half of one is not taken."""
    asked, broken = [], [True]

    def fetch(url, folder, extract_root, md5):
        asked.append((url, md5))
        unpacked = cub.FOLDER if url.endswith(f"{cub.FOLDER}.tgz") else "segmentations"
        archives = sets.cub(tmp_path / f"archive{len(asked)}")
        Path(extract_root).mkdir(parents=True, exist_ok=True)
        if broken.pop() if broken else False:
            (Path(extract_root) / unpacked).mkdir()
            raise OSError("connection lost")
        (archives / unpacked).rename(Path(extract_root) / unpacked)

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    monkeypatch.setattr("dgl_lib.data.listed.DOWNLOADS", tmp_path / "data")
    monkeypatch.delenv("DGL_DATA", raising=False)
    refused(lambda: Cub("test"), "cub: download", "connection lost", "DGL_DATA")
    data = Cub("test")
    assert asked == [cub.ARCHIVES[0], *cub.ARCHIVES] and data[0].mask.any()
    assert Cub("train") and len(asked) == 3
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["CUB_200_2011", "segmentations"]
