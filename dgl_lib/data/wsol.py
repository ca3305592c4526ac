"""CUB, ILSVRC and OpenImages30k through wsolevaluation's public lists, which published numbers are made with; and LID.

Nothing is downloaded here. Everything is chosen on val; test is for reporting, once (wsolevaluation: train-weaksup,
train-fullsup and test). Sources, terms and sizes: ``study/profiles/README.md``.
"""

import os
from pathlib import Path

import numpy as np

from dgl_lib.data import listed
from dgl_lib.data.images import orientation
from dgl_lib.data.listed import Pixels, Root, Size
from dgl_lib.data.records import masks_at
from dgl_lib.errors import UserError

FOLDERS = {"cub_wsol": "CUB", "ilsvrc": "ILSVRC", "openimages": "OpenImages"}  # name -> folder of lists and of images
SWAPPED = ("00017615", "00018903")  # the ends of the ids of LID's two masks whose width and height changed places


class Wsol(listed.Listed):
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
    them; a mask file of another size than its photograph is brought to each size by nearest neighbour. ILSVRC's class
    names are torchvision's for its ImageNet weights (same order), the others' the folders in the IDs."""

    def __init__(self, name: str, split: str, root: Root = None):
        self.name = name
        super().__init__(split, root)

    def read_lists(self) -> dict[str, int]:
        self.folder, lists = self.root / FOLDERS[self.name], metadata(self.root, FOLDERS[self.name], self.split)
        labels, self.sizes = read_labels(lists), read_sizes(lists)
        self.objects: listed.Groups = {}
        path = lists / "localization.txt"
        if path.is_file() and self.name == "openimages":
            self.objects = read_masks(path)
        elif path.is_file():
            self.boxes = listed.group_boxes(listed.read_rows(path, "id,x0,y0,x1,y1"), path, self.sizes)
        listed.compare(self.boxes or self.objects, path, labels, "image_ids.txt", every=self.split != "train")
        if self.name == "ilsvrc":
            self.classes = imagenet_names(max(labels.values()) + 1, lists)
        else:
            folders = ((label, Path(name).parent.name) for name, label in labels.items())
            self.classes = listed.class_names(folders, lists / "class_labels.txt")
        return labels

    def annotations(self, index: int) -> list[Path]:
        files = zip(*self.objects.get(self.names[index], []), strict=True)  # all masks, all ignore masks
        return [self.folder / file for kind in files for file in kind if file]

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        return True  # OpenImages keeps masks at a resolution of their own

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        count = len(self.objects[self.names[index]])
        stored = values[:count], values[count] if len(values) > count else None
        mask, ignore = masks_at(*stored, size)
        return {"mask": mask, "ignore": ignore if stored[1] is not None else None, "stored": stored}


class Lid(listed.Listed):
    """One split ("val", "test", "all") of LID track 3, pixel masks of 23,151 ILSVRC validation images::

        METADATA/LID/val/list_cls.txt    NAME.JPEG CLASS, the class unused
        METADATA/ILSVRC/test/*.txt       wsolevaluation's lists of the ILSVRC validation images
        ROOT/ILSVRC/val/NAME.JPEG        photographs
        ROOT/LID/val/NAME.png            masks: 0 background, one other value the object

    The paper's figures are measured on "all", where the challenge takes the peak. "val" is every tenth image of each
    class, the names sorted, and "test" the rest. (The challenge keeps 21,120 of its 44,271 masks to itself.)

    Two faults of the release are mended here. ``list_cls.txt`` numbers the classes in another order than ILSVRC's
    lists, so the class is looked up by the image's name. The two masks of ``SWAPPED`` have width and height swapped, as
    the authors of SPA2Net noted: 18903 carries an EXIF orientation, which a drawing tool obeys and a plain decoder
    ignores. So they are turned back as their photographs' EXIF data say or, if those say nothing, transposed."""

    name = "lid"
    splits = ("val", "test", "all")
    suffix = ".JPEG"

    def read_lists(self) -> dict[str, int]:
        self.folder, self.masks = self.root / "ILSVRC" / "val", self.root / "LID" / "val"
        listing, lists = metadata(self.root, "LID", "val") / "list_cls.txt", metadata(self.root, "ILSVRC", "test")
        by_file, sizes = read_labels(lists), read_sizes(lists)
        listing_files = [f"val/{file}" for file in listed.read_named(listing, "image,class", None)]
        listed.compare(listing_files, listing, by_file, f"{lists / 'image_ids.txt'}", every=False)
        files = {Path(file).stem: file for file in listing_files}
        self.classes = imagenet_names(max(by_file.values()) + 1, lists)
        self.sizes = {name: sizes[file] for name, file in files.items() if file in sizes}
        labels = {name: by_file[file] for name, file in files.items()}
        return labels if self.split == "all" else listed.every_nth(labels, 10, held_out=self.split == "val")

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        return mask == size or (self.names[index].endswith(SWAPPED) and mask == size[::-1])

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        [mask], [path] = values, self.annotations(index)
        found = np.unique(mask)
        if found.size > 2 or (found.size == 2 and found[0] != 0):
            raise UserError(f"{path}: values {', '.join(map(str, found[:5]))} found; 0 and one other value allowed")
        return {"mask": (mask if mask.shape == size else unturn(mask, orientation(self.path(index)))) > 0}


def unturn(shown: np.ndarray, exif: int) -> np.ndarray:
    """What is stored, from what is shown under an EXIF orientation of 5 to 8: (n, m) -> (m, n). Else the transpose."""
    return {6: np.rot90(shown, 1), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}.get(exif, shown.T)


def metadata(root: Path, *names: str) -> Path:
    """A folder of lists, in $DGL_WSOL_METADATA or else in ``root/metadata``."""
    folder = Path(os.environ.get("DGL_WSOL_METADATA") or root / "metadata", *names)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of lists; DGL_WSOL_METADATA names the one above {'/'.join(names)}")
    return folder


def read_labels(lists: Path) -> dict[str, int]:
    """ID -> class, in the order of ``image_ids.txt``; both lists must hold the same images."""
    ids, path = lists / "image_ids.txt", lists / "class_labels.txt"
    labels, names = listed.read_numbers(path, "id,class"), listed.read_named(ids, "id")
    if not names:
        raise UserError(f"{ids}: no image in it, at least one expected")
    listed.compare(labels, path, names, ids.name)
    return {name: labels[name][0] for name in names}


def read_sizes(lists: Path) -> dict[str, Size]:
    """ID -> (height, width); empty if the list is empty or missing."""
    path = lists / "image_sizes.txt"
    sizes = listed.read_numbers(path, "id,width,height") if path.is_file() else {}
    return {name: (height, width) for name, [width, height] in sizes.items()}


def read_masks(path: Path) -> listed.Groups:
    """ID -> mask file and ignore mask's file, or "", of each object."""
    objects = listed.read_rows(path, "id,mask,ignore")
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
