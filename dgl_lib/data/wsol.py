"""CUB, ILSVRC and OpenImages30k through wsolevaluation's public lists, which published numbers are made with.

Citation: Choe, Oh, Lee, Chun, Akata, Shim, Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020;
lists and code: github.com/clovaai/wsolevaluation, ``metadata/`` there (MIT licence). The images come from elsewhere and
keep their own terms: ILSVRC (Russakovsky et al., IJCV 2015; non-commercial research, on registration at image-net.org),
ImageNetV2 (Recht et al., ICML 2019), CUB-200-2011 (see ``cub``), CUBv2 (Flickr, CC-BY), OpenImages (Benenson et al.,
CVPR 2019; images CC-BY 2.0, annotations CC-BY 4.0). Nothing is downloaded here. Roles (wsolevaluation calls them
train-weaksup, train-fullsup and test):

==============  ====================  ================================  =============================
name            train                 val: everything is chosen on it   test: for reporting, once
==============  ====================  ================================  =============================
``cub_wsol``    5,994 (CUB-200-2011)  1,000 (CUBv2), a box each         5,794, a box each
``ilsvrc``      1,281,167             10,000 (ImageNetV2), 18,532 boxes 50,000 (its val), 80,477 boxes
``openimages``  29,819                2,500 with masks                  5,000 with masks
==============  ====================  ================================  =============================
"""

import os
from pathlib import Path

import cv2
import numpy as np

from dgl_lib.data.listed import Listed, Pixels, Root, Size
from dgl_lib.data.lists import class_names, compare, group, group_boxes, natural, read_classes, read_named, read_rows
from dgl_lib.errors import UserError

FOLDERS = {"cub_wsol": "CUB", "ilsvrc": "ILSVRC", "openimages": "OpenImages"}  # name -> folder of lists and of images


class Wsol(Listed):
    """One split ("train", "val", "test") of "cub_wsol", "ilsvrc" or "openimages"; FOLDER as in ``FOLDERS``::

        METADATA/FOLDER/SPLIT/image_ids.txt     ID, a path below the folder of images
        METADATA/FOLDER/SPLIT/class_labels.txt  ID,CLASS, from 0
        METADATA/FOLDER/SPLIT/image_sizes.txt   ID,WIDTH,HEIGHT; may be empty
        METADATA/FOLDER/SPLIT/localization.txt  ID,x0,y0,x1,y1: a line for each box, pixels from 0; OpenImages:
                                                ID,MASK,IGNORE: a line for each object, paths as ID's (the ignore mask
                                                in an image's first line only); train: may be empty or missing
        ROOT/FOLDER/ID                          photographs, and OpenImages' masks

    METADATA is $DGL_WSOL_METADATA, else ``ROOT/metadata``. CUB and ILSVRC have all boxes of an image and no mask. An
    OpenImages mask unites the objects of an image, its ignore mask leaves the objects out, and its one box goes around
    them; a mask file of another size than its photograph is brought to that size by nearest neighbour.

    Classes: ILSVRC's names are torchvision's for its ImageNet weights (same order), the others' the folders in the IDs.
    """

    def __init__(self, name: str, split: str, root: Root = None):
        self.name = name
        super().__init__(split, root)

    def read_lists(self) -> dict[str, int]:
        self.folder = self.root / FOLDERS[self.name]
        lists = metadata(self.root, FOLDERS[self.name], self.split)
        labels, self.sizes = read_labels(lists), read_sizes(lists)
        self.objects: dict[str, list[list[str]]] = {}
        path = lists / "localization.txt"
        if path.is_file():
            if self.name == "openimages":
                self.objects = read_masks(path)
            else:
                self.boxes = group_boxes(read_rows(path, "id,x0,y0,x1,y1"), path, self.sizes)
        compare(self.boxes or self.objects, path, labels, "image_ids.txt", every=self.split != "train")
        if self.name == "ilsvrc":
            self.classes = imagenet_names(max(labels.values()) + 1, lists)
        else:
            folders = ((label, Path(name).parent.name) for name, label in labels.items())
            self.classes = class_names(folders, lists / "class_labels.txt")
        return labels

    def annotations(self, index: int) -> list[Path]:
        files = zip(*self.objects.get(self.names[index], []), strict=True)  # all masks, all ignore masks
        return [self.folder / file for kind in files for file in kind if file]

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        return True  # OpenImages keeps masks at a resolution of their own

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        if not values:
            return {}
        shown = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST) > 0 for each in values]
        count = len(self.objects[self.names[index]])
        mask = np.logical_or.reduce(shown[:count])
        return {"mask": mask, "ignore": shown[count] & ~mask if len(shown) > count else None}


def metadata(root: Path, *names: str) -> Path:
    """A folder of lists, in $DGL_WSOL_METADATA or else in ``root/metadata``."""
    folder = Path(os.environ.get("DGL_WSOL_METADATA") or root / "metadata", *names)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of lists; DGL_WSOL_METADATA names the one above {'/'.join(names)}")
    return folder


def read_labels(lists: Path) -> dict[str, int]:
    """ID -> class, in the order of ``image_ids.txt``; both lists must hold the same images."""
    labels, names = read_classes(lists / "class_labels.txt"), read_named(lists / "image_ids.txt", "id")
    if not names:
        raise UserError(f"{lists / 'image_ids.txt'}: no image in it, at least one expected")
    compare(labels, lists / "class_labels.txt", names, "image_ids.txt")
    return {name: labels[name] for name in names}


def read_sizes(lists: Path) -> dict[str, Size]:
    """ID -> (height, width); empty if the list is empty or missing."""
    path = lists / "image_sizes.txt"
    sizes = {}
    for name, [width, height] in read_named(path, "id,width,height").items() if path.is_file() else ():
        sizes[name] = natural(height, f"{path}: {name}"), natural(width, f"{path}: {name}")
    return sizes


def read_masks(path: Path) -> dict[str, list[list[str]]]:
    """ID -> mask file and ignore mask's file, or "", of each object."""
    objects = group(read_rows(path, "id,mask,ignore"))
    if late := [name for name, files in objects.items() if any(ignore for _, ignore in files[1:])]:
        raise UserError(f"{path}: {late[0]!r} has an ignore mask after its first line; in the first line only allowed")
    return objects


def imagenet_names(count: int, lists: Path) -> tuple[str, ...]:
    """The first ``count`` of ILSVRC's 1000 class names, in the order of the sorted synsets, as torchvision has them."""
    from torchvision.models import Inception_V3_Weights

    names = Inception_V3_Weights.IMAGENET1K_V1.meta["categories"]
    if count > len(names):
        raise UserError(f"{lists / 'class_labels.txt'}: class {count - 1} given, 0 to {len(names) - 1} allowed")
    return tuple(names[:count])
