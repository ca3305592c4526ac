"""The command line, such as ``dgl localize photo.jpg``. Each command imports what it needs when it is called."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgl_lib.errors import UserError

if TYPE_CHECKING:
    from dgl_lib.app.networks import Network


class _Path(click.Path):
    """A path; an empty one, as of a variable that is not set, would be the folder at hand."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if str(value) else self.fail("'' given, a path needed", param, ctx)


PATH = _Path(path_type=Path)
RESUMED = (["study"], ["train"], ["evaluate"])  # commands that go on where they were broken off


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


@click.group(
    epilog=_examples("dgl localize photo.jpg", "dgl evaluate creatures --limit 5", "dgl study creatures --only 05"),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
def commands() -> None:
    """Dual-Gradients Localization: a study that trains a classifier from image labels and asks it where the object is.

    A PROFILE names data and parameters: quick, creatures, pets, cub, ilsvrc, lid, openimages or voc. Or it is a folder
    of your own photographs, in images/CLASS/FILE.jpg.

    \b
    Environment:
      DGL_DATA           folder of the photographs; if unset, they are downloaded where possible
      DGL_WSOL_METADATA  folder of wsolevaluation's lists; if unset, DGL_DATA/metadata
      DGL_WEIGHTS        file of ImageNet weights; if unset, they are downloaded

    Exit status: 0 done; 1 unreadable photographs, incomplete data, or tables that differ; 2 a mistake in what was asked
    for, or a file that cannot be read or written; 130 interrupted; 141 nobody reads the output."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("papermill", "traitlets", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet = click.option("--quiet", is_flag=True, help="Draw no progress bars.")
head = click.option("--head", default="softmax", type=click.Choice(["softmax", "sigmoid"]), help="How logits are read.")
skip_unreadable = click.option("--skip-unreadable", is_flag=True, help="Leave out and count images that are broken.")


def on_a_network(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a network. The command gets ``network``, opened, and ``device``."""

    @click.option("--checkpoint", metavar="PATH", help="A classifier of yours, or creatures: one of drawn animals.")
    @click.option("--model", metavar="NAME", help="torchvision's or timm:NAME. Default: resnet50; evaluate: creatures.")
    @click.option("--weights", default="DEFAULT", metavar="NAME|PATH|none", help="Of --model: by name or from a file.")
    @click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps.")
    @wraps(command)
    def opened(checkpoint: str | None, model: str | None, weights: str, **others: Any) -> None:
        from dgl_lib.app.networks import open_network

        if model is None and "data" in others:  # of `dgl evaluate`
            checkpoint = checkpoint or "creatures"
        command(network=open_network(checkpoint, model, weights), **others)

    return opened


def listed(of: Callable[[str], Any], _context: click.Context, _option: click.Parameter, text: str | None) -> tuple:
    """Read an option's values, separated by commas."""
    try:
        return tuple(of(item.strip()) for item in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} given, numbers separated by commas allowed") from None


def print_json(document: object) -> None:
    """Print a document for machines."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


@commands.command(epilog=_examples("dgl localize photo.jpg", "dgl localize photos --scales 0.75,1,1.25 --close 0.06"))
@click.argument("photographs", nargs=-1, required=True)
@on_a_network
@click.option("--layer", metavar="NAME", help="See `dgl layers`. Default: Mixed_6e, conv5_3, layer3.5 or the last one.")
@click.option("--method", default="dgl", help="dgl, cam, grad_cam, layer_cam, pixel_selection, ...")
@head
@click.option("--class", "label", metavar="NAME|INDEX", help="The class to look for. Default: the predicted one.")
@click.option("--scales", default="1", callback=partial(listed, float), help="Input sides, 1 for the network's own.")
@click.option("--close", default=0.0, help="Closing kernel as a fraction of the longer side, such as 0.06.")
@click.option("--threshold", type=float, help="Share of the map's range, in (0, 1]. Default: Otsu's for each map.")
@click.option("--out", default="localized", type=PATH, help="Folder for what is written.")
@click.option("--npy", is_flag=True, help="Write maps as float32 .npy instead of 16-bit PNG.")
@as_json
def localize(
    network: "Network", photographs: tuple[str, ...], out: Path, npy: bool, device: str, as_json: bool, **how: Any
) -> None:
    """Find the object in PHOTOGRAPHS, which are files, folders or globs.

    For each photograph, OUT gets NAME.overlay.png (the map's colours and the boxes over the photograph) and
    NAME.map.png (16-bit grey, 0 to 65535). OUT/boxes.json describes those of this run in COCO's form. The map covers
    all of the photograph, which is squashed and never cropped. If one cannot be read, the others are done and the
    status is 1.
    """
    from dgl_lib.app import networks, predict
    from dgl_lib.files import exclusive

    how["label"] = None if how["label"] is None else network.find_class(how["label"])
    how["layer"] = how["layer"] or networks.default_layer(network, how["method"])
    with exclusive(out):
        done = predict.localize_files(
            network, photographs, out, predict.How(**how), npy=npy, device=device, quiet=as_json
        )
    if as_json:
        print_json(done)
    if failed := done["info"]["failed"]:
        click.echo(f"{len(failed)} of {len(failed) + len(done['images'])} photographs were not localized", err=True)
        raise click.exceptions.Exit(1)


@commands.command(epilog=_examples("dgl layers", "dgl layers --model resnet50 --weights none --json"))
@on_a_network
@click.option("--size", type=int, help="Side of the input in pixels. Default: the network's own.")
@as_json
def layers(network: "Network", device: str, size: int | None, as_json: bool) -> None:
    """List the layers a network can be localized on: channels, size and stride of the map, and whether CAM exists.

    Of a torchvision model, these are the modules with at most one dot in their name; deeper ones work as well. Layers
    that put their channels last, such as Swin's, are not listed and are refused."""
    from dgl_lib.app import networks

    rows, size = networks.layers(network, size, device), size or network.size
    if as_json:
        print_json({"network": network.name, "size": size, "layers": [row._asdict() for row in rows]})
        return
    click.echo(f"{network.name}: {len(network.classes)} classes, input {size} px")
    click.echo(f"{'layer':<24} {'channels':>8} {'map':>9} {'stride':>6}  CAM")
    for row in rows:
        at, cam = f"{row.height}x{row.width}", "yes" if row.cam else "-"
        click.echo(f"{row.name:<24} {row.channels:>8} {at:>9} {row.stride:>6g}  {cam}")


@commands.command(epilog=_examples("dgl evaluate creatures --limit 5", "dgl evaluate ilsvrc --model resnet50"))
@click.argument("data")
@on_a_network
@click.option("--root", metavar="FOLDER", help="Folder of the data. Default: $DGL_DATA.")
@click.option("--split", default="test", type=click.Choice(["test", "val"]), help="The images that are scored.")
@click.option("--layers", metavar="A,B", callback=partial(listed, str), help="Default: the usual one and the last.")
@click.option("--methods", metavar="A,B", callback=partial(listed, str), help="Default: all of them.")
@head
@click.option("--size", default=0, help="Side of the input in pixels, 0 for the network's own.")
@click.option("--limit", default=0, help="Only the first so many images of each class, 0 for all.")
@skip_unreadable
@click.option("--out", default="evaluated", type=PATH, help="Folder for what is written.")
@as_json
def evaluate(network: "Network", data: str, out: Path, as_json: bool, **what: Any) -> None:
    """Score a classifier's maps on DATA, with thresholds from the validation split.

    DATA is creatures, pets, voc, cub, cub_wsol, ilsvrc, openimages, lid or a folder. OUT gets accuracy.csv. With masks
    it gets scores.csv and images.csv (pixel scores of the set and of each image), with boxes only boxes.csv. `dgl
    results OUT` prints them again. All images are read first, so that a broken one is reported before any work."""
    from dgl_lib.app import assess, export
    from dgl_lib.data import as_folder

    data, what["root"] = as_folder(data, what["root"])
    tables = assess.evaluate(network, data, out, progress=sys.stderr.isatty(), **what)
    if as_json:
        print_json({name: export.records(table) for name, table in tables.items()})
    else:
        click.echo(export.render(tables, "markdown"))
        click.echo(f"\ndone: {out}", err=True)


@commands.group("data")
def data_sets() -> None:
    """Look at data sets."""


@data_sets.command(epilog=_examples("dgl data check creatures", "dgl data check photographs --decode"))
@click.argument("name")
@click.option("--root", metavar="FOLDER", help="Folder of the files. Default: $DGL_DATA.")
@click.option("--decode", is_flag=True, help="Decode every file too, which takes hours on large sets.")
@as_json
def check(name: str, root: str | None, decode: bool, as_json: bool) -> None:
    """Say what of the data set or folder NAME is complete, and what is missing or wrong (then the status is 1)."""
    from dgl_lib import data

    complete, problems = data.check(*data.as_folder(name, root), decode=decode)
    if as_json:
        print_json({"complete": complete, "problems": problems})
    else:
        for line in complete:
            click.echo(f"complete: {line}")
        for line in problems:
            click.echo(f"problem: {line}", err=True)
    if problems:
        raise click.exceptions.Exit(1)


def on_a_profile(command: Callable[..., None]) -> Callable[..., None]:
    """Add PROFILE and the options of all commands that take one."""
    setting = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Replace one of its values.")
    several = click.option("--nproc", default=1, type=click.IntRange(1, 1024), help="Processes, one for each GPU.")
    return click.argument("profile")(setting(several(skip_unreadable(quiet(command)))))


@commands.command(epilog=_examples("dgl study creatures --only 05", "dgl study quick --sweep alpha=1,3,10 --only 03"))
@on_a_profile
@click.option("--only", multiple=True, metavar="05", help="Run this notebook instead of 01 to 04. May be repeated.")
@click.option("--all", "every", is_flag=True, help="Run all notebooks.")
@click.option("--sweep", multiple=True, metavar="NAME=A,B", help="Run once with each value, in every combination.")
@click.option("--out", type=PATH, help="Folder for the results. Default: results/PROFILE.")
@click.option("--until", default="notebooks", type=click.Choice(["train", "evaluate", "notebooks"]), help="Stop there.")
def study(only: tuple[str, ...], every: bool, sweep: tuple[str, ...], **options: Any) -> None:
    """Train, localize and run notebooks 01 to 04 with PROFILE's parameters, or continue where a run was broken off."""
    from dgl_lib.study import runner

    if only and every:
        raise UserError("--only and --all given, one of them allowed")
    _run("study", notebooks=runner.ALL if every else only or runner.FIRST, grid=sweep, **options)


@commands.command(epilog=_examples("dgl train creatures", "dgl train pets --set epochs=8", "dgl train photographs"))
@on_a_profile
@click.option("--half", type=PATH, help="Also write it here in half precision, to give away.")
def train(half: Path | None, **options: Any) -> None:
    """Only train PROFILE's classifier, and print where its checkpoint is. A folder's is trained as that of the pets."""
    from dgl_lib.models import load_checkpoint, save_checkpoint

    if half and half.is_dir():
        raise UserError(f"half: {str(half)!r} given, which is a folder; a file allowed")
    checkpoint = _run("train", until="train", **options)
    if half:
        model = load_checkpoint(checkpoint)
        save_checkpoint(model.half(), half, **model.facts)


def _run(
    command: str,
    profile: str,
    settings: tuple[str, ...],
    skip_unreadable: bool,
    quiet: bool,
    nproc: int,
    grid: tuple[str, ...] = (),
    **to: Any,
) -> Path:
    from dgl_lib import several
    from dgl_lib.data import as_folder, load
    from dgl_lib.study import runner
    from dgl_lib.study.profile import PROFILES, for_images, read_profile
    from dgl_lib.study.sweep import read_grid, sweep

    settings += ("skip_unreadable=true",) * skip_unreadable
    name, (data, root) = profile, as_folder(profile)
    if root and profile not in [path.stem for path in PROFILES.iterdir()]:
        os.environ["DGL_DATA"], name, profile = str(root), data, "pets"
        fitted = for_images(count := len(load(data, "train", root=root)))
        settings = (f"data={data}", *fitted, *settings)
        if several.RANK == 0 and nproc in (1, several.WORLD):
            click.echo(f"{count} training images: the pets' recipe, {' '.join(fitted)}; --set changes it", err=True)
    read = read_profile(profile, settings)
    until, numbers = to["until"], {notebook[:2] for notebook in to.get("notebooks", ())}
    if nproc > 1 and several.WORLD == 1:  # the same command in every process, but no notebooks; mistakes end here
        runner.check_inputs(read, numbers, localizing=until != "train", scoring=until == "notebooks")
        if status := several.start(nproc, [*sys.argv[1:], *["--until", "evaluate"] * (until == "notebooks")]):
            raise click.exceptions.Exit(status)
    how: dict[str, Any] = {"progress": not quiet and several.RANK == 0, **to}
    if grid:
        del how["out"]
        made = sweep(profile, read_grid(grid), settings, **how)
    else:
        typed = " ".join(["dgl", command, profile, *(f"--set {setting}" for setting in settings)])
        made = runner.run(read, name=name, command=typed, **how)
    if nproc > 1 and several.WORLD > 1:  # whoever started this process goes on with what it has made
        raise click.exceptions.Exit(0)
    if several.RANK == 0:
        click.echo(f"done: {made}")
    return made


@commands.command()
@quiet
def notebooks(quiet: bool) -> None:
    """Run the committed notebooks again with their own defaults, in place."""
    from dgl_lib.study import runner

    runner.rerun_committed(progress=not quiet)


@commands.command()
def bench() -> None:
    """Time the method and the scores, beside other packages where they are installed; results/bench gets tables."""
    from dgl_lib.study import paths

    for name in ("method", "metrics"):
        subprocess.run([sys.executable, str(paths.project_root() / "benchmarks" / f"{name}.py")], check=True)


@commands.command()
@click.option("--check", is_flag=True, help="Write nothing. Fail if a table is out of date.")
def readme(check: bool) -> None:
    """Fill the README's tables from results/."""
    from dgl_lib.study.readme import update_readme

    update_readme(check=check)


@commands.command(epilog=_examples("dgl results", "dgl results creatures --html creatures.html"))
@click.argument("profiles", nargs=-1)
@click.option("--table", help="verdicts, claims, 03_scores, ... An unknown name lists them.")
@click.option("--format", "form", default="markdown", type=click.Choice(["markdown", "latex", "csv", "json"]))
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--html", type=PATH, help="Write one PROFILE's page here instead, with its notebooks.")
def results(profiles: tuple[str, ...], table: str | None, form: str, html: Path | None) -> None:
    """Print a table of results/PROFILE, or of a folder that `dgl evaluate` wrote. Without a PROFILE, print it for all
    profiles that have claims. By default it is verdicts (over several trainings), else claims (of one training), scores
    or boxes."""
    from dgl_lib.app import export

    tables = {name: export.read(name, table) for name in profiles or export.profiles()}
    if html:
        if len(tables) != 1:
            raise UserError(f"--html given for {', '.join(tables) or 'no profile'}; one PROFILE allowed")
        export.page(*tables.popitem(), html)
    click.echo(f"done: {html}" if html else export.render(tables, form))


@commands.command(epilog=_examples("dgl compare results/creatures results/mine"))
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--digits", default=6, type=click.IntRange(1, 15), help="Significant digits that must agree.")
def compare(a: Path, b: Path, digits: int) -> None:
    """Compare the CSV tables of two results folders number by number. If any table differs, the status is 1."""
    from dgl_lib.app import export

    if lines := export.compare(a, b, digits):
        click.echo("\n".join(lines))
        raise click.exceptions.Exit(1)


def main() -> None:
    """Entry point. A user's mistake, an unusable file, a killed worker, a warning or an interrupt prints one line on
    stderr."""
    again = "; the same command continues where it stood" if sys.argv[1:2] in RESUMED else ""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what no encoding has
            try:  # not `commands()`, with which click ends a broken pipe itself
                with commands.make_context("dgl", sys.argv[1:]) as context:
                    commands.invoke(context)
            finally:
                sys.stdout.flush()
        sys.exit(0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read the output has enough; nothing more is said, also not when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)  # as for any program that SIGPIPE ends
    except (UserError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # how torch says that one of them was killed
            raise
        click.echo(f"error: {str(error).strip(' .')}{again}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\ninterrupted{again}", err=True)
        sys.exit(130)
