"""The command line: ``python -m dgl_lib study creatures``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import click

from dgl_lib.errors import UserError

EXAMPLES = """
\b
Examples:
  python -m dgl_lib study quick
  python -m dgl_lib study creatures --set epochs=8 --set profile=mine
  DGL_DATA=photographs DGL_WEIGHTS=trunk.safetensors python -m dgl_lib study pets
  EVERYTHING=1 python -m dgl_lib study pets
  python -m dgl_lib readme --check
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Dual-Gradients Localization: a study that trains a classifier from image labels and asks it where the object is.

    A PROFILE (quick, creatures, pets) names data and parameters; see dgl_lib/profiles.

    \b
    DGL_DATA      folder of the photographs; unset: downloaded
    DGL_WEIGHTS   file of ImageNet weights; unset: downloaded
    EVERYTHING=1  localize all images instead of the profile's share
    SHOW_PHOTOS=1 draw photographs, into the git-ignored results/.photos
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


@commands.command(epilog=EXAMPLES)
@_on_a_profile
def study(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Check, train, evaluate, run the four notebooks; results/PROFILE gets all they made.

    A run that was broken off is taken up where it stood: finished training and cached maps are found again.
    """
    from dgl_lib import study as library

    click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


@commands.command()
@_on_a_profile
def train(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Only train PROFILE's classifier, and say where its checkpoint is."""
    from dgl_lib import study as library

    click.echo(f"done: {library.run(profile, settings, until='train', progress=not quiet)}")


@commands.command()
@_on_a_profile
def evaluate(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Only train, and compute the maps that PROFILE's notebooks will ask for."""
    from dgl_lib import study as library

    library.run(profile, settings, until="evaluate", progress=not quiet)
    click.echo("done: the maps are cached")


@commands.command()
@_on_a_profile
def comparison(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Compare every method on every layer: results/PROFILE/comparison."""
    from dgl_lib import comparison as library

    click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


@commands.command()
@_on_a_profile
def controls(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Localize a wrong class, with an untrained network, with one of shuffled labels: results/PROFILE/controls."""
    from dgl_lib import controls as library

    click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


@commands.command()
@_on_a_profile
def seeds(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Train with two more seeds and compare all three: results/PROFILE/seeds."""
    from dgl_lib import seeds as library

    click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


@commands.command()
@_on_a_profile
def faithfulness(profile: str, settings: tuple[str, ...], quiet: bool) -> None:
    """Insertion, deletion and randomised weights, for every method: results/PROFILE/faithfulness."""
    from dgl_lib import faithfulness as library

    click.echo(f"done: {library.run(profile, settings, progress=not quiet)}")


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
    from dgl_lib.readme import update_readme

    update_readme(check=check)


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and status 2, an interrupt one line and status 130."""
    try:
        status = commands(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        status = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command takes it up where it stood", err=True)
        status = 130
    sys.exit(status)
