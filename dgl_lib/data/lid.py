"""LID track 3: pixel masks of 23,151 ILSVRC validation images, the set that the paper's figures are measured on.

Citation: Wei, Zheng, Cheng, Zhao, et al., LID 2020: The Learning from Imperfect Data Challenge Results, arXiv
2010.11724; the masks and the IoU curve: Zhang, Wei, Yang, Rethinking Localization Map, arXiv 2006.05220. The
challenge's page (lidchallenge.github.io/challenge.html) counts 44,271 masks, 23,151 of them for validation, and links
to an archive of these; we found no licence or checksum stated. The photographs are ILSVRC's, on its terms (see
``wsol``). Nothing is downloaded here. The masks of the challenge's test part (21,120) are not public.

Two things are wrong in what was released, and mended here:

- ``list_cls.txt`` numbers the classes in another order than ILSVRC's lists: classes are taken by the image's name.
- Two masks, ids ending 17615 and 18903, have width and height swapped (as the authors of SPA2Net note; the second
  is not in ``list_cls.txt``). ILSVRC2012_val_00018903 carries an EXIF orientation, which a drawing tool obeys and a
  plain decoder does not, so a swapped mask is turned back as its photograph's EXIF data say; where they say nothing,
  rows and columns change places. Whether that is what others did is unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dgl_lib.data.images import orientation
from dgl_lib.data.listed import Listed, Size, check_split, every_nth, find_root, need_files, read_pairs
from dgl_lib.data.wsol import Wsol, imagenet_names, metadata, read_labels, read_sizes
from dgl_lib.errors import UserError

SWAPPED = ("00017615", "00018903")


class Lid(Listed):
    """One split::

        METADATA/LID/val/list_cls.txt    NAME.JPEG CLASS, the class unused
        METADATA/ILSVRC/test/*.txt       wsolevaluation's lists of the ILSVRC validation images
        ROOT/ILSVRC/val/NAME.JPEG        photographs
        ROOT/LID/val/NAME.png            masks: 0 background, one other value the object

    METADATA is $DGL_WSOL_METADATA, else ``ROOT/metadata``. "all" is the challenge's whole validation set, on which it
    takes the peak. To choose on one part and report on another, "val" is every tenth image of each class, their names
    sorted (2,759), and "test" the rest (20,392). A record's one box is around its mask.

    Args:
        split: "val", "test" or "all". Training images are ILSVRC's: ``load("lid", "train")`` is ``ilsvrc``'s train.
        root: the folder above; None: $DGL_DATA.

    Raises:
        UserError: an unknown split, a missing file, a broken list, a name that ILSVRC's lists do not hold.
    """

    def __init__(self, split: str, root: str | Path | None = None):
        check_split("lid", split, ("val", "test", "all"))
        top = find_root("lid", root)
        listing, lists = metadata(top) / "LID" / "val" / "list_cls.txt", metadata(top) / "ILSVRC" / "test"
        labels, sizes = read_labels(lists), read_sizes(lists)
        stems = [Path(name).stem for name in read_pairs(listing, "image,class", None)]
        if strangers := [stem for stem in stems if f"val/{stem}.JPEG" not in labels]:
            raise UserError(
                f"{listing}: {strangers[0]!r} is not in {lists / 'image_ids.txt'} ({len(strangers)} are not)"
            )
        found = np.array([labels[f"val/{stem}.JPEG"] for stem in stems], dtype=np.int64)
        if split != "all":
            held_out = every_nth(stems, found, 10)
            keep = np.array([(stem in held_out) == (split == "val") for stem in stems], dtype=bool)
            stems, found = [stem for stem, kept in zip(stems, keep, strict=True) if kept], found[keep]
        self._masks = top / "LID" / "val"
        super().__init__(
            "lid",
            split,
            classes=imagenet_names(max(labels.values()) + 1, lists),
            names=stems,
            labels=found,
            folder=top / "ILSVRC" / "val",
            files=[f"{stem}.JPEG" for stem in stems],
            sizes={stem: sizes[f"val/{stem}.JPEG"] for stem in stems if f"val/{stem}.JPEG" in sizes},
        )
        need_files(self._masks, (f"{stem}.png" for stem in stems), f"lid {split} masks")

    def annotations(self, index: int) -> list[Path]:
        """The object's mask."""
        return [self._masks / f"{self.names[index]}.png"]

    def _fits(self, index: int, size: Size, mask: Size) -> bool:
        return mask == size or (self.names[index].endswith(SWAPPED) and mask == size[::-1])

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        [path] = self.annotations(index)
        values = self.read(path, index, size)
        found = np.unique(values)
        if found.size > 2 or (found.size == 2 and found[0] != 0):
            raise UserError(f"{path}: values {', '.join(map(str, found[:5]))} found; 0 and one other value allowed")
        if values.shape != size:
            values = unturn(values, orientation(self.path(index)))
        return {"mask": values > 0}


def unturn(shown: np.ndarray, exif: int) -> np.ndarray:
    """From what is shown under an EXIF orientation of 5 to 8 to what is stored; for any other, rows and columns change
    places. (n, m) -> (m, n)."""
    stored = {5: shown.T, 6: np.rot90(shown, 1), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}
    return stored.get(exif, shown.T)


def load_lid(split: str, root: str | Path | None = None) -> Listed:
    """``Lid``, and for "train" the training images of ILSVRC."""
    return Wsol("ilsvrc", "train", root) if split == "train" else Lid(split, root)
