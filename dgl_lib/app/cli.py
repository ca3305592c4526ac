"""The command line: ``dgl localize photo.jpg``. No work is done here, and a command imports what it needs when called.

Statuses: 0 done; 1 done but for some photographs or data, or a table out of date; 2 a mistake in what was asked for, or
a file that cannot be read or written; 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgl_lib.errors import UserError

if TYPE_CHECKING:
    from dgl_lib.app.networks import Network

EXAMPLES = """
\b
Examples:
  dgl localize photo.jpg
  dgl evaluate creatures --limit 5
  dgl results creatures --table scores --format latex
  python -m dgl_lib study quick
  python -m dgl_lib study creatures --set epochs=8 --set profile=mine
  DGL_DATA=photographs DGL_WEIGHTS=trunk.safetensors python -m dgl_lib study pets
  EVERYTHING=1 python -m dgl_lib study pets
  python -m dgl_lib readme --check

\b
Status:
  0  done
  1  done in part: some photographs could not be read, or a data set is not complete
  2  a mistake in what was asked for, or a file that cannot be read or written
  130  interrupted

``dgl`` and ``python -m dgl_lib`` are the same.
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Dual-Gradients Localization: a study that trains a classifier from image labels and asks it where the object is.

    A PROFILE (quick, creatures, pets; cub, ilsvrc, lid, openimages, voc) names data and parameters: dgl_lib/profiles.

    \b
    DGL_DATA           folder of the photographs; unset: downloaded, where it can be
    DGL_WSOL_METADATA  folder of wsolevaluation's lists; unset: DGL_DATA/metadata
    DGL_WEIGHTS        file of ImageNet weights; unset: downloaded
    EVERYTHING=1       localize all images instead of the profile's share
    SKIP_UNREADABLE=1  leave out and count images that cannot be read, instead of refusing them
    SHOW_PHOTOS=1      draw photographs, into the git-ignored results/.photos
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("papermill", "traitlets", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _on_a_profile(command: Callable[..., None]) -> Callable[..., None]:
    setting = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Put another value over the profile's; may be repeated.",
    )
    quiet = click.option("--quiet", is_flag=True, help="Draw no progress bars.")
    return click.argument("profile")(setting(quiet(command)))


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _on_a_network(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps."),
        click.option(
            "--weights",
            default="DEFAULT",
            metavar="NAME|PATH|none",
            help="Of --model: torchvision's name of them (downloaded once), a file, or none for random ones.",
        ),
        click.option("--model", metavar="NAME", help="A torchvision classifier, such as resnet50, instead."),
        click.option("--checkpoint", metavar="PATH", help="A trained classifier; default: the committed creatures."),
    ):
        command = option(command)
    return command


def _list(of: Callable[[str], Any], what: str) -> Callable[..., tuple[Any, ...]]:
    """An option's values, separated by commas."""

    def read(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[Any, ...]:
        try:
            return tuple(of(item.strip()) for item in text.split(",")) if text else ()
        except ValueError:
            raise click.BadParameter(f"{text!r} given, {what} allowed") from None

    return read


_numbers, _names = _list(float, "numbers separated by commas"), _list(str, "names separated by commas")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, for machines.")


def _open(checkpoint: str | None, model: str | None, weights: str) -> Network:
    from dgl_lib.app.networks import open_network

    logging.getLogger("dgl_lib.models").setLevel(logging.WARNING)  # where weights come from matters when training
    return open_network(checkpoint, model, weights)


def _print_json(document: object) -> None:
    import json

    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


@commands.command(
    epilog=_examples(
        "dgl localize photo.jpg",
        "dgl localize photographs 'more/**/*.png' --out found --scales 0.75,1,1.25 --close 0.06",
        "dgl localize photo.jpg --checkpoint classifier.safetensors --layer Mixed_6e --method dgl --class roundear",
        "dgl localize photo.jpg --model resnet50 --weights IMAGENET1K_V2 --layer layer4 --json",
    )
)
@click.argument("photographs", nargs=-1, required=True)
@_on_a_network
@click.option(
    "--layer", metavar="NAME", help="See `dgl layers`; default: Mixed_6e, conv5_3 or layer3.5, else the last one."
)
@click.option("--method", default="dgl", show_default=True, help="dgl, cam, grad_cam, layer_cam, pixel_selection, ...")
@click.option("--class", "wanted", metavar="NAME|INDEX", help="The class to look for; default: the predicted one.")
@click.option(
    "--scales", default="1", show_default=True, callback=_numbers, help="Input sides, 1 is the network's own."
)
@click.option("--close", "kernel", default=0.0, help="Closing kernel as a fraction of the longer side, such as 0.06.")
@click.option("--threshold", type=float, help="Share of the map's range, in (0, 1]; default: Otsu's, map by map.")
@click.option("--out", default="localized", show_default=True, type=click.Path(path_type=Path), help="Folder written.")
@click.option("--npy", is_flag=True, help="Write maps as float32 .npy instead of 16-bit PNG.")
@_as_json
def localize(
    photographs: tuple[str, ...],
    checkpoint: str | None,
    model: str | None,
    weights: str,
    device: str,
    layer: str | None,
    method: str,
    wanted: str | None,
    scales: tuple[float, ...],
    kernel: float,
    threshold: float | None,
    out: Path,
    npy: bool,
    as_json: bool,
) -> None:
    """Find the object in PHOTOGRAPHS: files, folders or globs.

    OUT gets, for each, NAME.overlay.png (the map's colours and the boxes over the photograph) and NAME.map.png (16-bit
    grey, 0 to 65535), and boxes.json for all of them, in COCO's form. A photograph is squashed to the network's square
    input, never cropped, so the map covers all of it. One that cannot be read is named, the others are done, and the
    status is 1.
    """
    from tqdm import tqdm

    from dgl_lib import networks, predict

    network = _open(checkpoint, model, weights)
    label = None if wanted is None else network.find_class(wanted)
    how = predict.How(layer or networks.default_layer(network, method), method, label, scales, kernel, threshold)

    def tell(outcome: predict.Outcome) -> None:
        if outcome.error or not as_json:
            tqdm.write(str(outcome), file=sys.stderr if outcome.error else sys.stdout)

    document = predict.localize_files(network, photographs, out, how, npy=npy, device=device, progress=True, tell=tell)
    if as_json:
        _print_json(document)
    if failed := document["info"]["failed"]:
        click.echo(f"{len(failed)} of {len(failed) + len(document['images'])} photographs were not localized", err=True)
        raise click.exceptions.Exit(1)


@commands.command(epilog=_examples("dgl layers", "dgl layers --model resnet50 --weights none --json"))
@_on_a_network
@click.option("--size", type=int, help="Side of the input in pixels; default: the network's own.")
@_as_json
def layers(
    checkpoint: str | None, model: str | None, weights: str, device: str, size: int | None, as_json: bool
) -> None:
    """List the layers a network can be localized on: channels, size and stride of the map, and where CAM exists.

    Of a torchvision model, its modules of at most one dot; deeper ones go by their dotted names. A map must have its
    channels first: layers that put them last, as Swin's and the inner ones of ConvNeXt do, are not listed and refused.
    """
    from dgl_lib import networks

    network = _open(checkpoint, model, weights)
    rows = networks.layers(network, size, device)
    if as_json:
        _print_json({"network": network.name, "size": size or network.size, "layers": [row._asdict() for row in rows]})
        return
    click.echo(f"{network.name}: {len(network.classes)} classes, input {size or network.size} px")
    click.echo(f"{'layer':<24} {'channels':>8} {'map':>9} {'stride':>6}  CAM")
    for row in rows:
        size_of_map = f"{row.height}x{row.width}"
        click.echo(f"{row.name:<24} {row.channels:>8} {size_of_map:>9} {row.stride:>6g}  {'yes' if row.cam else '-'}")


@commands.command(
    epilog=_examples(
        "dgl evaluate creatures --limit 5",
        "dgl evaluate folder --root mine --checkpoint classifier.safetensors --methods cam,dgl --layers Mixed_6e,add1",
        "dgl evaluate ilsvrc --root ILSVRC --model resnet50 --layers layer3,layer4 --out scores/resnet50",
    )
)
@click.argument("data")
@_on_a_network
@click.option("--root", metavar="FOLDER", help="Folder of the data; default: $DGL_DATA.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "val"]), help="Reported.")
@click.option(
    "--layers",
    "at",
    callback=_names,
    metavar="A,B",
    help="Default: that of `dgl localize` and the last, where CAM exists.",
)
@click.option("--methods", callback=_names, metavar="A,B", help="Default: all of them.")
@click.option("--size", default=0, help="Side of the input in pixels; default: the network's own.")
@click.option("--limit", default=0, help="Only the first so many images of each class.")
@click.option(
    "--skip-unreadable",
    is_flag=True,
    envvar="SKIP_UNREADABLE",
    help="Leave out and count images that cannot be read; else refused.",
)
@click.option("--out", default="evaluated", show_default=True, type=click.Path(path_type=Path), help="Folder written.")
@_as_json
def evaluate(
    data: str,
    checkpoint: str | None,
    model: str | None,
    weights: str,
    device: str,
    root: str | None,
    split: str,
    at: tuple[str, ...],
    methods: tuple[str, ...],
    size: int,
    limit: int,
    skip_unreadable: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Score a classifier's maps on DATA: thresholds from the validation split, scores of the test split.

    DATA is creatures, pets, voc, cub, cub_wsol, ilsvrc, openimages, lid or folder. OUT gets accuracy.csv, scores.csv
    and images.csv (pixel scores of the set and of each image), or boxes.csv where the data have boxes only, and `dgl
    results OUT` prints them again. All images are read first: one that cannot be is named before any work. To compute
    a profile's maps, see `dgl study --until`.
    """
    from dgl_lib import assess, export

    network = _open(checkpoint, model, weights)
    what = assess.What(data, root, split, at, methods, size, limit, skip_unreadable, device=device)
    tables = assess.evaluate(network, what, out, progress=sys.stderr.isatty())
    if as_json:
        _print_json({name: export.records(table) for name, table in tables.items()})
    else:
        click.echo(export.render(tables, "markdown"))
        click.echo(f"\ndone: {out}", err=True)


@commands.command(
    epilog=_examples(
        "dgl results",
        "dgl results creatures pets --table scores",
        "dgl results creatures --table comparison/scores --format latex",
        "dgl results evaluated --format csv",
    )
)
@click.argument("profiles", nargs=-1)
@click.option("--table", default="", help="claims (default), scores, ...; an unknown one lists them.")
@click.option(
    "--format", "form", default="markdown", show_default=True, type=click.Choice(["markdown", "latex", "csv", "json"])
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def results(profiles: tuple[str, ...], table: str, form: str) -> None:
    """Print a table of results/PROFILE, of all profiles that have claims where none is given.

    A folder that `dgl evaluate` wrote can stand in a PROFILE's place; its default table is scores, or boxes.
    """
    from dgl_lib import export

    click.echo(export.render({name: export.read(name, table) for name in profiles or export.profiles()}, form))


@commands.group()
def data() -> None:
    """Look at data sets."""


@data.command(epilog=_examples("dgl data check creatures", "dgl data check folder --root mine --decode"))
@click.argument("name")
@click.option("--root", metavar="FOLDER", help="Folder of the files; default: $DGL_DATA.")
@click.option("--decode", is_flag=True, help="Decode every file too; hours on large sets.")
@_as_json
def check(name: str, root: str | None, decode: bool, as_json: bool) -> None:
    """Say what of the data set NAME is there and what is missing or wrong; the status is 1 where something is."""
    from dgl_lib import datasets

    complete, problems = datasets.check(name, root, decode=decode)
    if as_json:
        _print_json({"complete": complete, "problems": problems})
    else:
        for line in complete:
            click.echo(f"complete: {line}")
        for line in problems:
            click.echo(f"problem: {line}", err=True)
    if problems:
        raise click.exceptions.Exit(1)


@commands.command(epilog=EXAMPLES)
@_on_a_profile
@click.option(
    "--until",
    default="notebooks",
    show_default=True,
    type=click.Choice(["train", "evaluate", "notebooks"]),
    help="End after training, or after the maps that the notebooks will ask for.",
)
def study(profile: str, settings: tuple[str, ...], quiet: bool, until: str) -> None:
    """Check, train, evaluate, run the four notebooks; results/PROFILE gets all they made.

    A run that was broken off is taken up where it stood: finished training and cached maps are found again.
    """
    from dgl_lib import study as library

    click.echo(f"done: {library.run(profile, settings, until=until, progress=not quiet)}")


@commands.command(epilog=_examples("dgl train creatures", "dgl train pets --set epochs=8 --set profile=mine"))
@_on_a_profile
def train(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Only train PROFILE's classifier, and say where its checkpoint is."""
    from dgl_lib import study as library

    click.echo(f"done: {library.run(profile, settings, until='train', progress=not quiet)}")


def _add_page(name: str, what: str) -> None:
    """The command NAME, which makes the page ``results/PROFILE/NAME`` by the module of that name."""

    @commands.command(name, help=f"{what}: results/PROFILE/{name}.")
    @_on_a_profile
    def make(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
        library = import_module(f"dgl_lib.{name}")
        click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


_add_page("comparison", "Compare every method on every layer")
_add_page("scores", "Score boxes, thresholds and normalisations, and what usual mistakes add")
_add_page("controls", "Localize a wrong class, with an untrained network, with one of shuffled labels")
_add_page("seeds", "Train with two more seeds and compare all three")
_add_page("architectures", "Train the other two networks and compare all three")
_add_page("faithfulness", "Insertion, deletion and randomised weights, for every method")


@commands.command()
@click.option("--quiet", is_flag=True, help="Draw no progress bars.")
def notebooks(quiet: bool) -> None:
    """Re-run the committed notebooks with their own defaults, in place, and clean them."""
    from dgl_lib import study as library

    library.rerun_committed(progress=not quiet)


@commands.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a table is out of date.")
def readme(check: bool) -> None:
    """Fill the README's tables from results/."""
    from dgl_lib.study.readme import update_readme

    update_readme(check=check)


def main() -> None:
    """Entry point: a user's mistake, a file that cannot be used, a warning and an interrupt are a line on stderr."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
            status = commands(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        status = 2
    except BrokenPipeError:  # whoever read our output has enough: not an error, and nothing more to be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        status = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command takes it up where it stood", err=True)
        status = 130
    sys.exit(status)
