"""CUB, ILSVRC and OpenImages30k through the public lists of wsolevaluation: the roles published numbers are made with.

Citation: Choe, Oh, Lee, Chun, Akata, Shim, Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020;
lists and code: github.com/clovaai/wsolevaluation, ``metadata/`` there (MIT licence). The images come from elsewhere and
keep their own terms: ILSVRC (Russakovsky et al., IJCV 2015; non-commercial research, on registration at image-net.org),
ImageNetV2 (Recht et al., ICML 2019), CUB-200-2011 (see ``cub``), CUBv2 (Flickr, CC-BY), OpenImages (Benenson et al.,
CVPR 2019; images CC-BY 2.0, annotations CC-BY 4.0). Nothing is downloaded here.

================  =======================  ======================================  ==================================
name              train                    val: everything is chosen on it         test: for reporting, once
================  =======================  ======================================  ==================================
``cub_wsol``      5,994 of CUB-200-2011    1,000 of CUBv2, a box each              5,794, a box each
``ilsvrc``        1,281,167                10,000 of ImageNetV2, 18,532 boxes      50,000 (its val), 80,477 boxes
``openimages``    29,819                   2,500 with masks                        5,000 with masks
================  =======================  ======================================  ==================================

(wsolevaluation's own folder names for the three: train-weaksup, train-fullsup, test.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from dgl_lib.data.listed import (
    Box,
    Listed,
    Size,
    check_split,
    class_names,
    find_root,
    need_files,
    read_box,
    read_pairs,
    read_rows,
    whole_number,
)
from dgl_lib.errors import UserError

FOLDERS = {"cub_wsol": "CUB", "ilsvrc": "ILSVRC", "openimages": "OpenImages"}  # name -> folder of lists and of images


class Wsol(Listed):
    """One split of one of the three, in wsolevaluation's layout, FOLDER being CUB, ILSVRC or OpenImages::

        METADATA/FOLDER/SPLIT/image_ids.txt     ID, a path below the folder of images
        METADATA/FOLDER/SPLIT/class_labels.txt  ID,CLASS, from 0
        METADATA/FOLDER/SPLIT/image_sizes.txt   ID,WIDTH,HEIGHT; may be empty
        METADATA/FOLDER/SPLIT/localization.txt  ID,x0,y0,x1,y1: a line for each box, pixels from 0
                                                OpenImages: ID,MASK,IGNORE: a line for each object, paths as ID's
                                                (the ignore mask in the first line of an image only); for train it may
                                                be empty or missing
        ROOT/FOLDER/ID                          photographs, and OpenImages' masks

    METADATA is $DGL_WSOL_METADATA, else ``ROOT/metadata``. Records are named by their ID. Box sets have all boxes of an
    image and no mask. An OpenImages mask unites the objects of an image, its ignore mask leaves the object out, and its
    one box is around the object; a mask file of another size than its photograph is brought to it by nearest neighbour.

    Classes: ILSVRC's names are torchvision's for its ImageNet weights (same order), the others' the folders in the IDs.

    Args:
        name: "cub_wsol", "ilsvrc" or "openimages".
        split: "train", "val" or "test".
        root: the folder above; None: $DGL_DATA.

    Raises:
        UserError: a missing list or image, a broken line, an image in one list and not in another, a box outside.
    """

    def __init__(self, name: str, split: str, root: str | Path | None = None):
        check_split(name, split)
        top = find_root(name, root)
        lists = metadata(top) / FOLDERS[name] / split
        if not lists.is_dir():
            hint = "; wsolevaluation's repository has it under metadata/" if split == "train" else ""
            raise UserError(
                f"{lists}: no such folder of lists (of {name} {split}){hint}; DGL_WSOL_METADATA names its parent"
            )
        labels, sizes = read_labels(lists), read_sizes(lists)
        names = list(labels)
        self._masks: dict[str, list[str]] = {}
        self._ignore: dict[str, str] = {}
        boxes: dict[str, list[Box]] = {}
        if name == "openimages":
            self._masks, self._ignore = read_masks(lists, labels)
        else:
            boxes = read_boxes(lists, labels, sizes)
        if split != "train" and (bare := [n for n in names if n not in boxes and n not in self._masks]):
            raise UserError(
                f"{lists / 'localization.txt'}: no line for {bare[0]!r}; {len(bare)} of {len(names)} have none"
            )
        folders = {label: Path(n).parent.name for n, label in labels.items()}
        if name == "ilsvrc":
            classes = imagenet_names(max(labels.values()) + 1, lists)
        else:
            classes = class_names(folders, lists / "class_labels.txt")
            for n, label in labels.items():
                if Path(n).parent.name != classes[label]:
                    raise UserError(
                        f"{lists / 'class_labels.txt'}: {n!r} has class {label}, which is {classes[label]!r}"
                    )
        folder = top / FOLDERS[name]
        super().__init__(
            name,
            split,
            classes=classes,
            names=names,
            labels=np.array(list(labels.values())),
            folder=folder,
            files=names,
            boxes=boxes,
            sizes=sizes,
        )
        masks = [file for n in self._masks for file in (*self._masks[n], self._ignore.get(n)) if file]
        need_files(folder, masks, f"{name} {split} masks")

    def annotations(self, index: int) -> list[Path]:
        """OpenImages: the masks of an image's objects, then its ignore mask where it has one."""
        name = self.names[index]
        files = [*self._masks.get(name, []), self._ignore.get(name)]
        return [self._folder / file for file in files if file]

    def _fits(self, index: int, size: Size, mask: Size) -> bool:
        return True  # OpenImages keeps masks at a resolution of their own; `read` brings them to the photograph's

    def read(self, path: Path, index: int, size: Size) -> np.ndarray:
        """A mask's values at its photograph's size, (H, W) uint8."""
        values = super().read(path, index, size)
        return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        name = self.names[index]
        if name not in self._masks:
            return {}
        mask = np.logical_or.reduce([self.read(self._folder / file, index, size) > 0 for file in self._masks[name]])
        file = self._ignore.get(name)
        ignore = (self.read(self._folder / file, index, size) > 0) & ~mask if file else None
        return {"mask": mask, "ignore": ignore}


def metadata(root: Path) -> Path:
    """The folder of the lists: $DGL_WSOL_METADATA, else ``metadata`` in the data's folder."""
    return Path(os.environ.get("DGL_WSOL_METADATA") or root / "metadata")


def read_labels(lists: Path) -> dict[str, int]:
    """ID -> class, in the order of ``image_ids.txt``; both lists must hold the same images."""
    path = lists / "class_labels.txt"
    labels = {
        name: whole_number(text, f"{path}: {name}", "class") for name, [text] in read_pairs(path, "id,class").items()
    }
    names = list(read_pairs(lists / "image_ids.txt", "id"))
    if odd := sorted(labels.keys() ^ set(names)):
        raise UserError(f"{path}: {odd[0]!r} stands in only one of it and image_ids.txt ({len(odd)} do)")
    if not names:
        raise UserError(f"{lists / 'image_ids.txt'}: no image in it, at least one expected")
    return {name: labels[name] for name in names}


def read_sizes(lists: Path) -> dict[str, Size]:
    """ID -> (height, width); empty where the list is empty or missing."""
    path = lists / "image_sizes.txt"
    sizes = {}
    for name, [width, height] in read_pairs(path, "id,width,height").items() if path.is_file() else ():
        where = f"{path}: {name}"
        sizes[name] = whole_number(height, where, "height"), whole_number(width, where, "width")
    return sizes


def read_boxes(lists: Path, known: Mapping[str, int], sizes: Mapping[str, Size]) -> dict[str, list[Box]]:
    """ID -> all boxes of the image, in the list's order."""
    path = lists / "localization.txt"
    boxes: dict[str, list[Box]] = {}
    for name, *values in read_rows(path, "id,x0,y0,x1,y1") if path.is_file() else ():
        _in_list(name, known, path)
        boxes.setdefault(name, []).append(read_box(values, f"{path}: {name}", sizes.get(name)))
    return boxes


def read_masks(lists: Path, known: Mapping[str, int]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """ID -> paths of its objects' masks, and ID -> path of its ignore mask where it has one."""
    path = lists / "localization.txt"
    masks: dict[str, list[str]] = {}
    ignore: dict[str, str] = {}
    for name, mask, left_out in read_rows(path, "id,mask,ignore") if path.is_file() else ():
        _in_list(name, known, path)
        if left_out and name in masks:
            raise UserError(f"{path}: {name!r} has an ignore mask after its first line; in the first line only allowed")
        masks.setdefault(name, []).append(mask)
        if left_out:
            ignore[name] = left_out
    return masks, ignore


def _in_list(name: str, known: Mapping[str, int], path: Path) -> None:
    if name not in known:
        raise UserError(f"{path}: {name!r} is not in image_ids.txt")


def imagenet_names(count: int, where: Path) -> tuple[str, ...]:
    """The first ``count`` of ILSVRC's 1000 class names, in the order of the sorted synsets, as torchvision has them."""
    from torchvision.models import Inception_V3_Weights

    names = Inception_V3_Weights.IMAGENET1K_V1.meta["categories"]
    if count > len(names):
        raise UserError(f"{where / 'class_labels.txt'}: class {count - 1} given, 0 to {len(names) - 1} allowed")
    return tuple(names[:count])
