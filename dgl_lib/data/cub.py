"""CUB-200-2011: 11,788 photographs of birds, 200 species, one bird and one box each; masks if they are installed.

Citation: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, Technical Report CNS-TR-2011-001, Caltech, 2011; the
masks came later, in an archive of their own. Licence: we found none stated; the photographs are Flickr's and belong to
their authors, so use them for research and publish no pixels. CaltechDATA has both archives (1,150,585,339 and
39,272,883 bytes). The MD5 sums are those that many public repositories quote; we did not download to compare.
"""

import shutil
from pathlib import Path

import numpy as np

from dgl_lib.data.listed import Listed, Pixels, Size, class_names, compare, every_nth, natural, read_box, read_named
from dgl_lib.errors import UserError

FOLDER = "CUB_200_2011"
ARCHIVES = (  # address, MD5
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    ("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
)
COLUMNS = {"image_class_labels": "id,class", "train_test_split": "id,train", "bounding_boxes": "id,x,y,w,h"}
VOTES = 127  # a mask's grey level is the share of five people who called the pixel bird; more than half: bird


class Cub(Listed):
    """One split ("train", "val", "test"), as the archives unpack::

        ROOT/CUB_200_2011/images.txt              ID PATH
        ROOT/CUB_200_2011/image_class_labels.txt  ID CLASS, from 1
        ROOT/CUB_200_2011/train_test_split.txt    ID 1 (train) or 0 (test)
        ROOT/CUB_200_2011/bounding_boxes.txt      ID x y width height, pixels from 0
        ROOT/CUB_200_2011/classes.txt             CLASS NAME
        ROOT/CUB_200_2011/images/PATH
        ROOT/segmentations/PATH, .png for .jpg    or CUB_200_2011/segmentations; grey, 0..255; all or none

    "test" is the data set's own; "val" is every fifth training image of each class (``every_nth``), "train" the rest.
    (``cub_wsol`` has wsolevaluation's roles, with CUBv2 for validation.) Boxes are ``x, y, x + width, y + height``, cut
    at the image, as in wsolevaluation's lists. Points (beak, ...) are no region, so ``part`` stays None."""

    name = "cub"
    cut = True

    def read_lists(self) -> dict[str, int]:
        base = self.root / FOLDER
        self.folder = base / "images"
        self.masks = next((f for f in (self.root / "segmentations", base / "segmentations") if f.is_dir()), None)
        paths = {key: path for key, [path] in read_named(base / "images.txt", "id,path", None).items()}
        if len(set(paths.values())) < len(paths):
            raise UserError(f"{base / 'images.txt'}: a path is listed twice; once allowed")
        lists = {base / f"{name}.txt": read_named(base / f"{name}.txt", named, None) for name, named in COLUMNS.items()}
        for listing, rows in lists.items():
            compare(rows, listing, paths, "images.txt")
        names = {key: name for key, [name] in read_named(base / "classes.txt", "class,name", None).items()}
        numbered = ((natural(key, f"{base / 'classes.txt'}"), name) for key, name in names.items())
        self.classes = class_names(numbered, base / "classes.txt", first=1)
        classes, roles, boxes = lists
        labels = {}
        for key, path in paths.items():
            [number], [train], box = (rows[key] for rows in lists.values())
            if number not in names:
                raise UserError(f"{classes}, id {key}: class {number} is not in classes.txt")
            if train not in ("0", "1"):
                raise UserError(f"{roles}, id {key}: {train!r} given, 0 or 1 allowed")
            if (train == "0") == (self.split == "test"):
                labels[path] = int(number) - 1
                self.boxes[path] = [read_box(box, f"{boxes}, id {key}", extent=True)]
        return labels if self.split == "test" else every_nth(labels, 5, held_out=self.split == "val")

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        return {"mask": values[0] > VOTES}

    def download(self, folder: Path) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        for (address, md5), unpacked in zip(ARCHIVES, (FOLDER, "segmentations"), strict=True):
            if not (folder / unpacked).is_dir():
                beside = folder / f".{unpacked}"  # unpacking that is broken off must not pass for the data set
                download_and_extract_archive(address, str(folder), extract_root=str(beside), md5=md5)
                (beside / unpacked).rename(folder / unpacked)
                shutil.rmtree(beside)
