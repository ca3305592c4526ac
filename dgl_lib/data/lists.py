"""How the data sets read lists, tables and annotation files. Errors name the file, and the line or the entry."""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from dgl_lib.errors import UserError

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last pixel included
Size = tuple[int, int]  # height, width


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from error


def read_rows(path: Path, columns: str, separator: str | None = ",") -> Iterator[list[str]]:
    """The values of each line of a list without a header. Empty lines and lines that begin with # are skipped.

    Args:
        columns: the columns' names, comma-separated. If the last is "...", further values are allowed and dropped.
        separator: what stands between values; None for white space.
    """
    named = columns.removesuffix(",...")
    count = named.count(",") + 1
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        values = [value.strip() for value in line.split(separator)]
        if len(values) < count or (len(values) > count and named == columns):
            raise UserError(f"{path}, line {number}: {line.strip()!r} given, {count} values ({columns}) expected")
        yield values[:count]


def read_named(path: Path, columns: str, separator: str | None = ",") -> dict[str, list[str]]:
    """As ``read_rows``, but name -> other values, of a list with a different name in each line's first column."""
    return by_name(read_rows(path, columns, separator), path)


def by_name(rows: Iterable[list[str]], where: Path) -> dict[str, list[str]]:
    """First value -> other values; UserError if a first value comes twice."""
    groups = group(rows)
    if twice := [name for name, found in groups.items() if len(found) > 1]:
        raise UserError(f"{where}: {twice[0]!r} is listed twice; once allowed")
    return {name: values for name, [values] in groups.items()}


def read_table(path: Path, *columns: str) -> Iterator[list[str]]:
    """Each row's values in ``columns`` of a CSV file with a header."""
    reader = csv.DictReader(read_text(path).splitlines())
    found = reader.fieldnames or []
    if set(columns) - set(found):
        raise UserError(f"{path}: columns {', '.join(found)}; {', '.join(columns)} expected")
    for row in reader:
        if None in row or None in row.values():
            raise UserError(f"{path}, line {reader.line_num}: {len(found)} values expected")
        yield [row[column] for column in columns]


def read_objects(path: Path) -> list[tuple[str, Box]]:
    """Name and box of each object (not of its parts) in an annotation file of Pascal VOC's kind; pixels from 1."""
    try:
        objects = ElementTree.fromstring(read_text(path)).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not an annotation file ({error})") from error
    sides = [f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
    boxes = [read_box([thing.findtext(side, "") for side in sides], str(path)) for thing in objects]
    return [(thing.findtext("name", "").strip(), box) for thing, box in zip(objects, boxes, strict=True)]


def read_classes(path: Path, columns: str = "id,class", separator: str | None = ",") -> dict[str, int]:
    """Name -> class number, from a list of these two columns."""
    rows = read_named(path, columns, separator)
    return {name: natural(text, f"{path}: {name}") for name, [text] in rows.items()}


def natural(text: str, where: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"{where}: {text!r} given, a whole number of 0 or more expected")
    return int(text)


def read_box(values: Sequence[str], where: str, size: Size | None = None, *, extent: bool = False) -> Box:
    """A checked box from the texts of ``x0, y0, x1, y1`` or, with ``extent``, of ``x, y, width, height``."""
    try:
        x0, y0, x1, y1 = (int(float(value)) for value in values)  # some tools write "33.0"
    except (ValueError, OverflowError):
        raise UserError(f"{where}: box {', '.join(values)} given, four numbers expected") from None
    box = (x0, y0, x0 + x1, y0 + y1) if extent else (x0, y0, x1, y1)
    check_box(box, where, size)
    return box


def check_box(box: Box, where: str, size: Size | None = None) -> None:
    """UserError unless the corners are in order and, if ``size`` is given, within an image of that size."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1) or (size and not (x1 < size[1] and y1 < size[0])):
        within = f", within {size[1]}x{size[0]} pixels" if size else ""
        raise UserError(f"{where}: box {x0}, {y0}, {x1}, {y1} given, 0 <= x0 <= x1 and 0 <= y0 <= y1{within} allowed")


def group(rows: Iterable[list[str]]) -> dict[str, list[list[str]]]:
    """First value -> the other values of each of its rows, in their order."""
    named: dict[str, list[list[str]]] = {}
    for name, *values in rows:
        named.setdefault(name, []).append(values)
    return named


def group_boxes(rows: Iterable[list[str]], where: Path, sizes: Mapping[str, Size]) -> dict[str, list[Box]]:
    """Name -> its boxes in their order, from rows of a name and four numbers."""
    groups = group(rows).items()
    return {name: [read_box(box, f"{where}: {name}", sizes.get(name)) for box in boxes] for name, boxes in groups}


def compare(names: Collection[str], where: Path, known: Collection[str], source: str, *, every: bool = True) -> None:
    """UserError unless ``source`` has all ``names`` that ``where`` has and, with ``every``, the other way round."""
    if strangers := [name for name in names if name not in known]:
        raise UserError(f"{where}: {strangers[0]!r} is not in {source} ({len(strangers)} in all)")
    if every and (missing := [name for name in known if name not in names]):
        raise UserError(f"{where}: no line for {missing[0]!r} of {source}; {len(missing)} of {len(known)} have none")


def class_names(numbered: Iterable[tuple[int, str]], where: Path, first: int = 0) -> tuple[str, ...]:
    """The classes in the order of their numbers ``first``, ``first + 1``, ...; UserError unless they are one to one."""
    names: list[str] = []
    for number, name in sorted(set(numbered)):
        if number != first + len(names) or name in names:
            found = f"class {number} {name!r} found after {names[-1:]}"
            raise UserError(f"{where}: {found}; numbers from {first} without a gap and one name each expected")
        names.append(name)
    if not names:
        raise UserError(f"{where}: no class in it; at least one expected")
    return tuple(names)


def every_nth(labels: Mapping[str, int], n: int, *, held_out: bool) -> dict[str, int]:
    """Name -> label of those held out for validation, or of the others, in their order.

    Held out are the names at positions 0, n, 2n, ... of each class, sorted as strings: "a_10" before "a_2".
    """
    by_class: dict[int, list[str]] = {}
    for name in sorted(labels):
        by_class.setdefault(labels[name], []).append(name)
    chosen = {name for names in by_class.values() for name in names[::n]}
    return {name: label for name, label in labels.items() if (name in chosen) == held_out}
