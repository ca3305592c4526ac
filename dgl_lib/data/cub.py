"""CUB-200-2011: 11,788 photographs of birds, 200 species, one bird and one box each; masks where they are installed.

Citation: Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, Technical Report
CNS-TR-2011-001, Caltech, 2011; the masks came later, as an archive of their own. Licence: we found none stated; the
photographs are Flickr's and belong to their authors, so: for research, and no pixels published. Both archives are in
CaltechDATA's records 65de6-vp158 and w9d68-gec53. Their MD5 sums, as many public repositories quote them (we did not
download the archives to compare): ``CUB_200_2011.tgz`` 97eceeb196236b17998738112f37df78 (1,150,585,339 bytes),
``segmentations.tgz`` 4d47ba1228eae64f2fa547c47bc65255 (39,272,883 bytes).

The data set marks 15 points of each bird (beak, crown, ...), which are no region: ``part`` stays None.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from dgl_lib.data.listed import (
    Box,
    Listed,
    Size,
    check_box,
    check_split,
    class_names,
    every_nth,
    find_root,
    need_files,
    read_pairs,
    whole_number,
)
from dgl_lib.errors import UserError

FOLDER = "CUB_200_2011"
ARCHIVES = (  # address, MD5
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    ("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
)
VOTES = 127  # a mask's grey level is the share of five people who called the pixel bird; more than half: bird


class Cub(Listed):
    """One split, as the archives unpack::

        ROOT/CUB_200_2011/images.txt              ID PATH
        ROOT/CUB_200_2011/image_class_labels.txt  ID CLASS, from 1
        ROOT/CUB_200_2011/train_test_split.txt    ID 1 (train) or 0 (test)
        ROOT/CUB_200_2011/bounding_boxes.txt      ID x y width height, pixels from 0
        ROOT/CUB_200_2011/classes.txt             CLASS NAME
        ROOT/CUB_200_2011/images/PATH
        ROOT/segmentations/PATH, .png for .jpg    or CUB_200_2011/segmentations; grey, 0..255; may be absent

    "test" is the data set's own; "val" is every fifth of its training images of each class, their paths sorted, and
    "train" the rest. (``cub_wsol`` has wsolevaluation's roles, with CUBv2 for validation.) Boxes are
    ``x, y, x + width, y + height``, cut at the image, as wsolevaluation's lists have them.

    Args:
        split: "train", "val" or "test".
        root: the folder above; None: $DGL_DATA, or where that is unset ``data``, to which both archives are downloaded.

    Raises:
        UserError: an unknown split, a missing file, a broken list; masks installed for some images only.
    """

    def __init__(self, split: str, root: str | Path | None = None):
        check_split("cub", split)
        top = find_root("cub", root, _download)
        base = top / FOLDER
        paths = {key: path for key, [path] in read_pairs(base / "images.txt", "id,path", None).items()}
        columns = {"image_class_labels": "id,class", "train_test_split": "id,train", "bounding_boxes": "id,x,y,w,h"}
        lists = {name: read_pairs(base / f"{name}.txt", named, None) for name, named in columns.items()}
        for name, rows in lists.items():
            if rows.keys() != paths.keys():
                odd = sorted(rows.keys() ^ paths.keys())
                raise UserError(
                    f"{base / name}.txt: id {odd[0]} stands in only one of it and images.txt ({len(odd)} do)"
                )
        listing = base / "classes.txt"
        by_label = {
            whole_number(key, str(listing), "class") - 1: name
            for key, [name] in read_pairs(listing, "id,name", None).items()
        }
        classes = class_names(by_label, listing)
        labels = {}
        for key, [text] in lists["image_class_labels"].items():
            labels[key] = whole_number(text, f"{base / 'image_class_labels.txt'}, id {key}", "class") - 1
            if not 0 <= labels[key] < len(classes):
                raise UserError(
                    f"{base / 'image_class_labels.txt'}, id {key}: class {text}, 1 to {len(classes)} allowed"
                )
        role = {key: flag for key, [flag] in lists["train_test_split"].items()}
        if wrong := [key for key, flag in role.items() if flag not in ("0", "1")]:
            raise UserError(f"{base / 'train_test_split.txt'}, id {wrong[0]}: {role[wrong[0]]!r} given, 0 or 1 allowed")
        keys = [key for key in paths if role[key] == ("0" if split == "test" else "1")]
        if split != "test":
            held_out = every_nth([paths[key] for key in keys], np.array([labels[key] for key in keys]), 5)
            keys = [key for key in keys if (paths[key] in held_out) == (split == "val")]
        names = [paths[key] for key in keys]
        if len(set(names)) < len(names):
            raise UserError(f"{base / 'images.txt'}: a path is listed twice; once allowed")
        boxes = {
            paths[key]: [_box(lists["bounding_boxes"][key], f"{base / 'bounding_boxes.txt'}, id {key}")] for key in keys
        }
        self._masks = next((f for f in (top / "segmentations", base / "segmentations") if f.is_dir()), None)
        super().__init__(
            "cub",
            split,
            classes=classes,
            names=names,
            labels=np.array([labels[key] for key in keys]),
            folder=base / "images",
            files=names,
            boxes=boxes,
        )
        if self._masks and split != "train":
            need_files(self._masks, (str(Path(name).with_suffix(".png")) for name in names), f"cub {split} masks")

    def _cut(self, index: int, size: Size) -> list[Box]:
        return [(x0, y0, min(x1, size[1] - 1), min(y1, size[0] - 1)) for x0, y0, x1, y1 in super()._cut(index, size)]

    def annotations(self, index: int) -> list[Path]:
        """The bird's mask, where masks are installed."""
        return [] if self._masks is None else [(self._masks / self.names[index]).with_suffix(".png")]

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        masks = [self.read(path, index, size) > VOTES for path in self.annotations(index)]
        return {"mask": masks[0]} if masks else {}


def _box(values: list[str], where: str) -> Box:
    try:
        x, y, width, height = (int(float(value)) for value in values)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: box {' '.join(values)} given, four numbers x y width height expected") from None
    check_box((x, y, x + width, y + height), where)
    return x, y, x + width, y + height


def _download(folder: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    for (address, md5), unpacked in zip(ARCHIVES, (FOLDER, "segmentations"), strict=True):
        if not (folder / unpacked).is_dir():
            beside = folder / f".{unpacked}"  # unpacking that is broken off must not pass for the data set
            download_and_extract_archive(address, str(folder), extract_root=str(beside), md5=md5)
            (beside / unpacked).rename(folder / unpacked)
            shutil.rmtree(beside)
