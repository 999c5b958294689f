"""The report's section of routes: what every task selects, how it learned it, what that costs.

Heat map, learning curves, agreement of tasks with their tree, and a table of parameters and FLOPs.
Tasks stand in the order of the config and have the colours that they have on the whole page. What
a folder lacks is said in a sentence; with one unit a layer there is nothing to choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gppf_d2.analysis import page
from gppf_d2.analysis.routes.agreement import agreement_figure, readable_count
from gppf_d2.analysis.routes.costs import BackboneCosts, costs_of_config
from gppf_d2.analysis.routes.curves import route_curves
from gppf_d2.analysis.routes.heatmap import route_heatmap
from gppf_d2.analysis.routes.tables import (
    SURE,
    arbitrary_layers,
    chosen_units,
    learning_curves,
    probabilities_of,
    route_agreement,
    sure_layers,
    unit_count,
)
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.modeling.lego.controller import UNDECIDED_MARGIN

FEW_TASKS = 6  # up to here the words of the agreement name every pair, and half a page holds it


def routes_section(folder: RunFolder) -> str:
    """The section, in whatever state the run is.

    Args:
        folder: of the run; the costs come from its config.
    """
    routes = in_order(folder)
    if not probabilities_of(routes):
        part = page.missing("There are no routes: the run has not written routes.json.")
        return page.section("routes", "Routes", part)
    costs, without = _costs(folder, routes)
    if unit_count(routes) == 1:
        lead = (
            "Every layer has one unit (N = 1): there is nothing to choose, every task uses the "
            "whole backbone."
        )
        part = page.missing(without) if costs is None else _cost_table(routes, costs)
        return page.section("routes", "Routes", part, lead=lead)
    parts = [_heatmap(routes), _history(folder, routes)]
    if len(probabilities_of(routes)) > 1:
        parts.append(_agreement(routes, costs))
    parts.append(page.missing(without) if costs is None else _cost_table(routes, costs))
    body = f'<div class="stack">{"".join(parts)}</div>'
    return page.section("routes", "Routes", body, lead=_lead(folder, routes))


def in_order(folder: RunFolder) -> dict[str, Any]:
    """The routes of a run with its tasks in the order of the config."""
    tasks = folder.routes.get("tasks")
    if not isinstance(tasks, Mapping):
        return {}
    return {**folder.routes, "tasks": {name: tasks[name] for name in folder.tasks if name in tasks}}


def _costs(folder: RunFolder, routes: Mapping[str, Any]) -> tuple[BackboneCosts | None, str]:
    """The costs of the backbone, or why they are not known."""
    try:
        if not folder.config:
            raise ValueError("There is no config.yaml that can be read.")
        costs = costs_of_config(folder.config)
        if not costs.fits(routes["layers"], unit_count(routes)):
            raise ValueError("The config describes another backbone than routes.json.")
    except ValueError as error:
        return None, f"The parameters and FLOPs of the routes cannot be told. {error}"
    return costs, ""


def _lead(folder: RunFolder, routes: Mapping[str, Any]) -> str:
    gates = folder.config.get("gates")
    gates = gates if isinstance(gates, Mapping) else {}
    mode = gates.get("mode")
    modes = mode if isinstance(mode, Mapping) else dict.fromkeys(routes["tasks"], mode)
    fixed = [task for task in routes["tasks"] if modes.get(task) == "fixed"]
    if len(fixed) == len(routes["tasks"]):
        return "The config fixes which unit of each layer every task uses."
    sentences = ["Every task learns which unit of each layer it uses."]
    if gates.get("eval_mode") == "mean":
        sentences.append(
            "Evaluation mixes all units by these probabilities; agreement and costs are those of "
            "the most probable units alone."
        )
    elif gates.get("eval_mode") == "fixed":
        sentences.append("Evaluation takes the units that the config fixes, not those shown here.")
    if fixed:
        sentences.append(f"The config fixes the units of {page.escape(', '.join(fixed))}.")
    if any(arbitrary_layers(routes).values()):
        sentences.append(
            f"Where the two most probable units are less than {UNDECIDED_MARGIN:g} apart, the "
            "choice is arbitrary, and so are the numbers that follow from it: "
            f"{page.escape(_of_layers(routes, arbitrary_layers(routes)))}."
        )
    return " ".join(sentences)


def _of_layers(routes: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """By task a number of its layers, in words."""
    total = len(routes["layers"])
    told = ", ".join(f"{task} in {count} of {total}" for task, count in counts.items())
    return f"{told} layer{'s' * (total != 1)}"


def _sure(routes: Mapping[str, Any]) -> str:
    return f"Probability {SURE} or more: {_of_layers(routes, sure_layers(routes))}"


def _heatmap(routes: Mapping[str, Any]) -> str:
    sure = _sure(routes)
    return page.chart(
        lambda theme: route_heatmap(routes, theme),
        f"Heat map of selection probabilities, tasks by layers by units. {sure}.",
        "A band per task, a row per unit, a column per layer. Outlined is the most probable unit; "
        f"its probability is printed while it is below {SURE}. "
        f"{page.escape(sure)}.",
        wide=True,
    )


def _history(folder: RunFolder, routes: Mapping[str, Any]) -> str:
    try:
        curves = learning_curves(folder.history)
    except ValueError:
        return page.missing(
            "How the routes were learned cannot be shown: routes.jsonl has no entry."
        )
    if curves.num_units == 2:
        shown = "Probability of unit 1 over the iterations"
        how = (
            "a line in the middle has not chosen, lines that part belong to tasks that choose "
            "differently."
        )
    else:
        shown = "Largest selection probability over the iterations"
        how = (
            "at the bottom nothing is chosen yet, at the top the choice is certain. A dot marks "
            "where the most probable unit last changed; the numbers below are the units at the "
            "end, in the order of the legend."
        )
    first, last = curves.iterations
    return page.chart(
        lambda theme: route_curves(curves, theme, folder.tasks),
        f"{shown}, a panel per layer, a line per task, iterations {first:,} to {last:,}. "
        f"At the end: {_sure(routes)}.",
        f"{shown}, a panel per layer, a line per task: {how}",
        wide=True,
    )


def _agreement(routes: Mapping[str, Any], costs: BackboneCosts | None) -> str:
    names, matrix = route_agreement(routes)
    pairs = {
        f"{a} and {b}": matrix[i, j] for i, a in enumerate(names) for j, b in enumerate(names[:i])
    }
    if len(names) > FEW_TASKS:
        ends = {"most": max(pairs, key=pairs.get), "least": min(pairs, key=pairs.get)}
        told = "; ".join(f"the {word} {pair} with {pairs[pair]:.0%}" for word, pair in ends.items())
    else:
        told = "; ".join(f"{pair} {share:.0%}" for pair, share in pairs.items())
    caption = "Share of layers in which two tasks select the same unit"
    if costs is not None:
        caption += (
            "; on the diagonal and below it the parameters that both routes use, coloured by "
            "their share of the smaller route"
        )
    caption += ". The tree joins the tasks that agree most first (average linkage)."
    if any(arbitrary_layers(routes).values()):
        caption += (
            " Layers whose choice is arbitrary count with the unit that is most probable now."
        )
    chart = page.chart(
        lambda theme: agreement_figure(routes, theme, costs),
        f"Share of layers in which two tasks select the same unit: {told}.",
        caption,
        wide=True,
    )
    return f'<div class="narrow">{chart}</div>' if len(names) <= FEW_TASKS else chart


def _cost_table(routes: Mapping[str, Any], costs: BackboneCosts) -> str:
    """A row per task; sentences on the whole backbone below it, or alone where all use it all."""
    chosen = chosen_units(routes)
    several = len(chosen) > 1
    layers, units = costs.parameters.shape
    told = (
        f"The backbone has {readable_count(costs.total_parameters)} parameters in {layers} layers "
        f"of {units} unit{'' if units == 1 else 's'}."
    )
    if units == 1:
        told += f" One image costs {_flops(costs.route_flops([0] * layers))} FLOPs."
    elif several:
        told += (
            f" The routes use {readable_count(costs.used_parameters(chosen.values()))} of them; "
            f"{readable_count(costs.common_parameters(*chosen.values()))} are common to all tasks."
        )
    told += (
        f" FLOPs are those of the backbone alone for one image of {costs.side} x {costs.side} "
        "pixels, counted by fvcore: a multiply-add is one."
    )
    if costs.uncounted:
        told += f" What cannot be counted is n/a: {page.escape('; '.join(costs.uncounted))}."
    if units == 1:
        return f'<div class="card">{told}</div>'
    head = ["Task", "parameters", "of the backbone", "FLOPs"] + ["used by no other task"] * several
    rows = []
    for task, route in chosen.items():
        size = costs.common_parameters(route)
        share, flops = f"{size / costs.total_parameters:.0%}", _flops(costs.route_flops(route))
        row = [page.escape(task), readable_count(size), share, flops]
        others = [other for name, other in chosen.items() if name != task]
        rows.append(row + [readable_count(costs.own_parameters(route, others))] * several)
    return page.figure(page.table(head, rows, caption="What every route costs"), told, wide=True)


def _flops(count: float) -> str:
    if math.isnan(count):
        return "n/a"
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.0f} M"
