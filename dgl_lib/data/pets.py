"""Oxford-IIIT Pet: photographs of cats and dogs by breed, with trimaps (Parkhi et al., Cats and Dogs, CVPR 2012)."""

from pathlib import Path

import numpy as np

from dgl_lib.data import listed
from dgl_lib.errors import UserError

FOLDER = "oxford-iiit-pet"  # torchvision's name for it
OBJECT, BACKGROUND, BORDER = 1, 2, 3  # values of a trimap


class Pets(listed.Listed):
    """One split ("train", "val", "test") of all 37 breeds, or of some of them in the same layout::

        ROOT/oxford-iiit-pet/images/NAME.jpg                    NAME is BREED_NUMBER
        ROOT/oxford-iiit-pet/annotations/trainval.txt, test.txt NAME CLASS ..., classes 1, 2, ... without a gap
        ROOT/oxford-iiit-pet/annotations/trimaps/NAME.png       1 object, 2 background, 3 border
        ROOT/oxford-iiit-pet/annotations/heads.csv              image,xmin,ymin,xmax,ymax; else xmls/NAME.xml

    "test" is ``test.txt``; "val" is every fifth ``trainval.txt`` image of each class (see ``every_nth``), and "train"
    the rest, in the order of their lists. torchvision downloads the full data set (0.8 GB). ``mask`` is the object,
    ``ignore`` the border, and ``part`` the head: the object's pixels in the head boxes, or None if there are none. One
    trimap, Abyssinian_34 (test), is all background: it gives an empty mask and no box."""

    name = "pets"
    suffix = ".jpg"
    oriented = small = True
    allowed = (OBJECT, BACKGROUND, BORDER)

    def __init__(self, split: str, root: listed.Root = None):
        super().__init__(split, root)
        self.check()

    def read_lists(self) -> dict[str, int]:
        # torchvision's class would report a broken list or a missing file only by a traceback amid an epoch.
        notes = self.root / FOLDER / "annotations"
        self.folder, self.masks, heads = self.root / FOLDER / "images", notes / "trimaps", notes / "heads.csv"
        lists = (notes / "trainval.txt", notes / "test.txt")
        rows = (listed.read_numbers(path, "name,class,...", None).items() for path in lists)
        trainval, test = ({name: number for name, [number] in each} for each in rows)
        if both := sorted(trainval.keys() & test.keys()):
            raise UserError(f"{lists[1]}: {both[0]!r} is in trainval.txt too ({len(both)} in all)")
        breeds = ((number, name.rsplit("_", 1)[0]) for name, number in (trainval | test).items())
        self.classes = listed.class_names(breeds, notes, first=1)
        chosen = test if self.split == "test" else listed.every_nth(trainval, 5, held_out=self.split == "val")
        # Head boxes as written: the first pixel is 1, the last one is included.
        if heads.is_file():
            self.heads = listed.group_boxes(listed.read_table(heads, "image", *listed.SIDES), heads, {})
        else:
            xmls = {name: path for name in chosen if (path := notes / "xmls" / f"{name}.xml").is_file()}
            listed.need_files(xmls.values(), f"pets {self.split} annotations", notes)
            self.heads = {name: [box for _, box in listed.read_objects(path)] for name, path in xmls.items()}
        return {name: number - 1 for name, number in chosen.items()}

    def pixels(self, index: int, size: listed.Size, values: list[np.ndarray]) -> listed.Pixels:
        [trimap] = values
        mask, part = trimap == OBJECT, np.zeros(size, dtype=bool)
        for x0, y0, x1, y1 in self.heads.get(self.names[index], []):
            part[max(y0 - 1, 0) : y1, max(x0 - 1, 0) : x1] = True
        part &= mask
        return {"mask": mask, "ignore": trimap == BORDER, "part": part if part.any() else None}

    def download(self, folder: Path) -> None:
        from torchvision.datasets import OxfordIIITPet

        OxfordIIITPet(root=folder, download=True)
