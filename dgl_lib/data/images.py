"""Image files to arrays, with Pillow. Whatever goes wrong becomes a UserError that names the file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dgl_lib.errors import UserError
from dgl_lib.files import regular


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        # Pillow warns from 89 megapixels on and refuses from 179 on; its refusal becomes ours, below.
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(regular(path))
        with image:
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or empty, or cut off within its header") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... for bad bytes
        raise UserError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error


def read_image(path: str | Path, *, oriented: bool = True) -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB, turned as its EXIF orientation says if ``oriented``.

    Grey becomes three equal channels, palettes are looked up, CMYK and YCbCr are converted, transparent pixels are laid
    over white, and 16-bit grey is scaled from 0..65535 to 0..255 (Pillow would clip it). Colour profiles are not used.
    The bytes tell the file's kind, not its name. Of several frames, the first is read. UserError: missing, empty, cut
    off, corrupt, pixels without a fixed range (32-bit), or more of them than the 179 million that Pillow decodes."""
    with _opened(path) as image:
        if oriented:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image)
            if image.mode == "F" or values.min() < 0 or values.max() > 65535:
                raise UserError(f"{path}: {image.mode!r} pixels without a fixed range; 8 or 16 bits a channel allowed")
            image = Image.fromarray(((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """A mask's stored values, (H, W) uint8: grey levels, palette indices, or 0 and 1; UserError for other modes."""
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P"):
            raise UserError(f"{path}: a mask has one channel of at most 8 bits, this file has mode {image.mode!r}")
        return np.array(image).astype(np.uint8)


def image_size(path: str | Path, *, oriented: bool = True) -> tuple[int, int]:
    """(height, width) of what ``read_image`` (with the same ``oriented``) or ``read_mask`` (False) returns."""
    # Only the header is read. To find the orientation of a mask, Pillow would decode the whole PNG.
    with _opened(path) as image:
        width, height = image.size
    return (width, height) if oriented and orientation(path) >= 5 else (height, width)


def orientation(path: str | Path) -> int:
    """The EXIF orientation of a photograph: 1 (as stored) if it has none, 5 to 8 if the sides are swapped."""
    with _opened(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (H, W, 3) uint8 at ``size`` x ``size``. Shrinking averages areas, so that nothing aliases."""
    if image.shape[:2] == (size, size):
        return image
    how = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)
