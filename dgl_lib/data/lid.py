"""LID track 3: pixel masks of 23,151 ILSVRC validation images, the set that the paper's figures are measured on.

Citation: Wei, Zheng, Cheng, Zhao, et al., LID 2020: The Learning from Imperfect Data Challenge Results, arXiv
2010.11724; the masks and the IoU curve: Zhang, Wei, Yang, Rethinking Localization Map, arXiv 2006.05220. The page
lidchallenge.github.io/challenge.html counts 44,271 masks, links to the 23,151 for validation, and keeps those of the
test part (21,120) to itself; we found no licence or checksum stated. The photographs are ILSVRC's, on its terms (see
``wsol``). Nothing is downloaded here.

Two faults of the release are mended here. ``list_cls.txt`` numbers the classes in another order than ILSVRC's lists, so
the class is looked up by the image's name. Two masks, ids ending 17615 and 18903, have width and height swapped (noted
by the authors of SPA2Net; the second is not in ``list_cls.txt``). ILSVRC2012_val_00018903 carries an EXIF orientation,
which a drawing tool obeys and a plain decoder ignores. So a swapped mask is turned back as its photograph's EXIF data
say; if they say nothing, rows and columns change places. We do not know whether others did the same.
"""

from pathlib import Path

import numpy as np

from dgl_lib.data.images import orientation
from dgl_lib.data.listed import Listed, Pixels
from dgl_lib.data.lists import Size, compare, every_nth, read_named
from dgl_lib.data.wsol import imagenet_names, metadata, read_labels, read_sizes
from dgl_lib.errors import UserError

SWAPPED = ("00017615", "00018903")


class Lid(Listed):
    """One split ("val", "test", "all")::

        METADATA/LID/val/list_cls.txt    NAME.JPEG CLASS, the class unused
        METADATA/ILSVRC/test/*.txt       wsolevaluation's lists of the ILSVRC validation images
        ROOT/ILSVRC/val/NAME.JPEG        photographs
        ROOT/LID/val/NAME.png            masks: 0 background, one other value the object

    METADATA is $DGL_WSOL_METADATA, else ``ROOT/metadata``. "all" is the challenge's whole validation set, on which the
    challenge takes the peak. "val" is every tenth image of each class, the names sorted (2,759), and "test" the rest
    (20,392): choose on one, report on the other. A record's one box goes around its mask.

    Training images are ILSVRC's: ``load("lid", "train")`` is ``ilsvrc``'s train.
    """

    name = "lid"
    splits = ("val", "test", "all")
    suffix = ".JPEG"

    def read_lists(self) -> dict[str, int]:
        self.folder, self.masks = self.root / "ILSVRC" / "val", self.root / "LID" / "val"
        listing, lists = metadata(self.root, "LID", "val") / "list_cls.txt", metadata(self.root, "ILSVRC", "test")
        by_file, sizes = read_labels(lists), read_sizes(lists)
        files = {Path(name).stem: f"val/{Path(name).stem}.JPEG" for name in read_named(listing, "image,class", None)}
        compare(files.values(), listing, by_file, f"{lists / 'image_ids.txt'}", every=False)
        self.classes = imagenet_names(max(by_file.values()) + 1, lists)
        self.sizes = {name: sizes[file] for name, file in files.items() if file in sizes}
        labels = {name: by_file[file] for name, file in files.items()}
        return labels if self.split == "all" else every_nth(labels, 10, held_out=self.split == "val")

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        return mask == size or (self.names[index].endswith(SWAPPED) and mask == size[::-1])

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        [mask] = values
        found = np.unique(mask)
        if found.size > 2 or (found.size == 2 and found[0] != 0):
            [path] = self.annotations(index)
            raise UserError(f"{path}: values {', '.join(map(str, found[:5]))} found; 0 and one other value allowed")
        if mask.shape != size:
            mask = unturn(mask, orientation(self.path(index)))
        return {"mask": mask > 0}


def unturn(shown: np.ndarray, exif: int) -> np.ndarray:
    """What is stored, from what is shown under an EXIF orientation of 5 to 8: (n, m) -> (m, n). Else the transpose."""
    stored = {5: shown.T, 6: np.rot90(shown, 1), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}
    return stored.get(exif, shown.T)
