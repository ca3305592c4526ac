"""Is it the network? The same comparison with each of the three classifiers, trained by one profile's recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from dgl_lib import claims, comparison, seeds, study
from dgl_lib.evaluation import BASELINES, report
from dgl_lib.files import write_text
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import LAYER, LAYERS, NETWORKS
from dgl_lib.plots import architectures as plots
from dgl_lib.plots import seeds as seed_plots
from dgl_lib.plots import style


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/architectures`` and return its folder. UserError: as ``study.run``.

    Trains what is missing of the three networks; what was trained and localized before is found again.
    """
    return study.make_page("architectures", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: dict[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write the tables, verdicts.md, two figures and README.md to ``folder``."""
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in ("networks", "scores", "chosen", "gains")}
    effects = {}
    for network in NETWORKS:
        own = of_network(parameters, network)
        val, test, accuracy = seeds.trained(own, progress=progress)
        scores = report(val, test).drop(columns=["scales", "kernel"])
        chosen = comparison.choose_layers(val, test, scores)
        at = {row["method"]: comparison.row_of(row) for row in chosen.to_dict("records")}
        [cam] = scores.loc[scores["method"] == "cam", "layer"]
        facts = {"layer": own["layer"], "cam_layer": cam, "layers": len(own["layers"]), "images": len(test.names)}
        tables = {
            "networks": pd.DataFrame([facts | accuracy]),
            "scores": scores,
            "chosen": chosen,
            "gains": comparison.gains(val, test, at, own["layer"]),
        }
        for name, table in tables.items():
            table.insert(0, "network", network)
            found[name].append(table)
        effects[network] = seeds.effects(val, test, own["layer"], own["layers"])
    t = {name: pd.concat(of, ignore_index=True) for name, of in found.items()}
    t["effects"] = seeds.effects_table(effects, "network")
    for name, table in t.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    style.use_style()
    title = "Methods, each on its best layer"
    style.save(seed_plots.dots(t["chosen"], t["effects"], title, "network"), folder, "networks")
    style.save(plots.by_layer(t["scores"]), folder, "layers")
    write_text(folder / "verdicts.md", verdicts(t["effects"]) + "\n")
    write_text(folder / "README.md", page(t, parameters))


def of_network(parameters: Mapping[str, Any], network: str) -> dict[str, Any]:
    """The profile's parameters with this network in its place, on every layer of its table."""
    own = {"network": network, "layers": [layer.name for layer in LAYERS[network]], "layer": LAYER[network]}
    return {**parameters, **own}


def verdicts(effects: pd.DataFrame) -> str:
    """Which claims' verdicts another network leaves as they are, in one sentence."""
    return seeds.verdicts(effects, "network", "networks", "network")


def agreement(gains: pd.DataFrame) -> dict[str, list[str]]:
    """Methods and controls by what DGL does against them, each on its own best layer, in all networks alike.

    Args:
        gains: ``comparison.gains`` with a column network.

    Returns:
        {verdict: methods}; under "differs" those with which not all networks agree.
    """
    own = _own(gains)
    words = own.groupby("method", sort=False)["verdict"].unique()
    alike: dict[str, list[str]] = {word: [] for word in (*comparison.AGAINST, "differs")}
    for method, found in words.items():
        alike[found[0] if len(found) == 1 else "differs"].append(str(method))
    return alike


def _own(gains: pd.DataFrame) -> pd.DataFrame:
    """DGL on its best layer against each method on its own best: the first layer of DGL in each network."""
    best = gains.groupby("network", sort=False)["dgl_layer"].transform("first")
    return gains[(gains["dgl_layer"] == best) & (gains["at"] == "own") & ~gains["method"].isin(BASELINES)]


# --------------------------------------------------------------------------------------------------------- the page


def page(t: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any]) -> str:
    """The page's Markdown, every sentence made from the tables."""
    means = t["effects"].pivot_table(index="effect", columns="network", values="mean")
    agree = int(((means > 0).all(axis=1) | (means < 0).all(axis=1)).sum())
    networks = t["networks"]
    lines = [
        f"# {len(networks)} networks: {agree} of {len(means)} effects have the same sign in all",
        f"Data: {parameters['data']}, {networks['images'].iloc[0]} test images. SPG-plain is the talk's classifier, "
        f"the other two are the released code's; all trained by the recipe of the profile `{parameters['profile']}`, "
        f"width {parameters['width']:g}, seed {parameters['seed']}. The recipe was made for SPG-plain and tuned for "
        "none of the others. Layers and thresholds are chosen on validation, for each network by itself; intervals "
        "are 95 % bootstrap intervals over images, paired where two maps are compared. One training of each: how far "
        "another seed moves these numbers is told by the page of the seeds, for SPG-plain.",
        _networks_markdown(networks),
        verdicts(t["effects"]),
        "![IoU and effects by network](networks.png)",
        "## The effects",
        "DGL and its branches on the layer looked at closest, CAM on the last; pixel selection as the mean over all "
        "layers but the last.",
        *seeds.parts_note(t["effects"]),
        _effects_markdown(t["effects"]),
        "## The methods",
        *[f"- {line}" for line in findings(t)],
        _methods_markdown(t["chosen"]),
        "DGL minus each of them, each on its own best layer, points of test IoU:",
        _gains_markdown(t["gains"]),
        "## The layers",
        "![IoU by layer, a panel a network](layers.png)",
        "Every method, layer and threshold: `scores.csv`; each method on its best layer: `chosen.csv`; `gains.csv`.",
    ]
    return "\n\n".join(lines) + "\n"


def findings(t: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What holds in all networks, a sentence each."""
    for network, chosen in t["chosen"].groupby("network", sort=False):
        of = chosen[chosen["kind"] == "method"]
        best = of.iloc[0].to_dict()
        baseline = comparison.name_of(chosen[chosen["kind"] == "baseline"].iloc[0])
        beaten = int((of["over_verdict"] == "gains").sum())
        place = of["method"].tolist().index("dgl") + 1
        yield (
            f"**{network}:** best on validation is {comparison.name_of(best)}, test IoU {comparison.percent(best)}; "
            f"DGL is number {place} of {len(of)}; {beaten} of {len(of)} methods gain on the {baseline}."
        )
    alike = agreement(t["gains"])
    said = [f"{text} {_names(alike[word])}" for word, text in comparison.AGAINST.items() if alike[word]]
    others = f"; the networks do not agree on {_names(alike['differs'])}" if alike["differs"] else ""
    yield f"**In all of them,** each method on its best layer, DGL {'; '.join(said) or 'agrees on none'}{others}."


def _names(methods: Sequence[str]) -> str:
    return ", ".join(style.name(method) for method in methods)


def _networks_markdown(networks: pd.DataFrame) -> str:
    rows = [
        [row["network"], str(row["layers"]), row["layer"], row["cam_layer"]]
        + [f"{row[name]:.1f} %" for name in ("accuracy_val", "accuracy_test")]
        for row in networks.to_dict("records")
    ]
    head = ["", "layers", "looked at closest", "CAM on", "classified right, validation", "test"]
    return claims.markdown(head, rows)


def _effects_markdown(effects: pd.DataFrame) -> str:
    networks = effects["network"].unique()
    rows = []
    for (claim, effect), of in effects.groupby(["claim", "effect"], sort=False):
        by = of.set_index("network").to_dict("index")
        cells = ["{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}] {verdict}".format_map(by[name]) for name in networks]
        rows.append([str(claim), str(effect), *cells])
    return claims.markdown(["", "effect, points", *networks], rows)


def _methods_markdown(chosen: pd.DataFrame) -> str:
    networks = chosen["network"].unique()
    by = chosen.set_index(["method", "network"]).to_dict("index")
    rows = []
    for method in (*METHODS, *CONTROLS, *BASELINES):
        cells = [by[method, network] for network in networks]
        rows.append([style.name(method), *(f"{one['layer']} {comparison.percent(one)}".strip() for one in cells)])
    return claims.markdown(["each on its best layer", *networks], rows)


def _gains_markdown(gains: pd.DataFrame) -> str:
    own = _own(gains)
    networks = own["network"].unique()
    by = own.set_index(["method", "network"]).to_dict("index")
    rows = []
    for method in (*METHODS, *CONTROLS):
        if method != "dgl":
            cells = [by[method, network] for network in networks]
            text = ["{mean:+z.1f} [{low:+z.1f}, {high:+z.1f}] {verdict}".format_map(one) for one in cells]
            rows.append([style.name(method), *text])
    return claims.markdown(["", *networks], rows)
