"""The model card of an exported backbone: Markdown for people on a model hub.

A pure function of the exported metadata, so that everything in the card is in the JSON too. What a
checkpoint or its run folder does not say, the card says is not known. Files are named without their
folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PAPER = (
    "[GPPF: A General Perception Pre-training Framework via Sparsely Activated Multi-Task "
    "Learning](https://arxiv.org/abs/2208.02148)"
)
_LIBRARIES = {"detectron2": "Detectron2", "torchvision": "torchvision", "timm": "timm"}


def model_card(metadata: Mapping[str, Any], name: str, code: Mapping[str, str]) -> str:
    """Write the card.

    Args:
        metadata: of the export.
        name: of the weights file.
        code: Python by what it is for (`loading.snippets`).
    """
    parts = [
        _front_matter(metadata),
        _summary(metadata, name),
        _input(metadata),
        _loading(metadata, code),
        _route(metadata),
        _training(metadata["run"]),
        _results(metadata),
        _licence(metadata["run"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _front_matter(metadata: Mapping[str, Any]) -> str:
    tags = ["multi-task", "backbone", "feature-extraction", metadata["architecture"].lower()]
    lines = "".join(f"- {tag}\n" for tag in tags)
    return (
        f"---\nlibrary_name: {metadata['layout']}\nlicense: other\n"
        f"license_name: licences-of-the-datasets\ntags:\n{lines}---"
    )


def _summary(metadata: Mapping[str, Any], name: str) -> str:
    tasks, library = metadata["run"]["tasks"], _LIBRARIES[metadata["layout"]]
    units, task = metadata.get("num_units"), metadata["task"]
    along = f"the route of task `{task}`" if task else f"the route in `{metadata['route_file']}`"
    lego = f"a lego backbone with {units} candidate units in every layer" if units else "a backbone"
    if units == 1:
        lego = "a backbone with one unit in every layer"
    trained = f"trained jointly on {len(tasks)} tasks" if len(tasks) > 1 else "trained on one task"
    wrapper = metadata.get("wrapper")
    needs = f"gppf_d2 for one class, `{wrapper}`" if wrapper else "nothing of gppf_d2"
    rows = [
        ("architecture", metadata["architecture"]),
        ("parameters", f"{metadata['num_parameters'] / 1e6:.1f} M, without a classifier"),
        ("weights", f"`{name}`, {library}'s names"),
        ("facts and settings for programs", f"`{name}.json`"),
    ]
    if metadata["left_out"]:
        rows.append((f"left out, {library} has no place for it", _codes(metadata["left_out"])))
    return (
        f"# {metadata['architecture']} along {along}\n\n"
        f"A plain {metadata['architecture']} for {library}, taken out of {lego}, {trained} with "
        f"gppf_d2, an implementation of {PAPER}. It needs {needs}.\n\n" + _table(("", ""), rows)
    )


def _input(metadata: Mapping[str, Any]) -> str:
    rows = [
        ("channels", metadata["pixel_format"]),
        ("mean, in grey levels 0 to 255", _numbers(metadata["pixel_mean"])),
        ("standard deviation", _numbers(metadata["pixel_std"])),
        ("norm layers", metadata["norm"]),
    ]
    if "stride_in_1x1" in metadata:
        where = {True: "the first 1x1", False: "the 3x3", None: "the first 3x3"}
        rows.append(("stride of a block", f"in {where[metadata['stride_in_1x1']]} convolution"))
    return (
        "## Input\n\nThe weights load without a complaint into a model that treats its input "
        "otherwise, and are wrong there.\n\n" + _table(("", ""), rows)
    )


def _loading(metadata: Mapping[str, Any], code: Mapping[str, str]) -> str:
    library = _LIBRARIES[metadata["layout"]]
    parts = ["## Loading"]
    if not code:
        parts.append(
            f"{library} has no ready-made model of these widths; `{metadata['architecture']}` "
            "with the sizes in the JSON must be built by hand."
        )
    for title, text in code.items():
        parts.append(f"{title}:\n\n```python\n{text}\n```")
    sides = metadata["overrides"].get("equal_for_image_sides")
    if sides:
        parts.append(
            f"Image sides: {sides} pixels; at others {library} pads or shifts its windows "
            "differently, and the outputs differ from those of the training."
        )
    if code and metadata["layout"] == "detectron2" and "stride_in_1x1" in metadata:
        parts.append(
            "Configs of the model zoo freeze the stem and res2 (`freeze_at=2`); set 0 to train all."
        )
    return "\n\n".join(parts)


def _route(metadata: Mapping[str, Any]) -> str:
    text = "## Route\n\n"
    layers, units = metadata["layers"], metadata["route"]
    if metadata.get("num_units") == 1:
        return text + f"One unit in each of {len(layers)} layers: there was nothing to choose."
    if metadata["route_file"]:
        text += f"Given by the route file `{metadata['route_file']}`.\n\n"
    elif metadata["undecided"]:
        text += (
            f"**Undecided in {len(metadata['undecided'])} of {len(layers)} layers**: there the "
            "two most probable units are almost equally probable and the choice is arbitrary.\n\n"
        )
    elif metadata["max_probability"]:
        text += "The most probable unit of every layer; all layers have decided.\n\n"
    if not metadata["max_probability"]:
        return text + _table(("layer", "unit"), zip(layers, units))
    rows = [
        (layer, unit, f"{probability:.3f}", "undecided" if layer in metadata["undecided"] else "")
        for layer, unit, probability in zip(layers, units, metadata["max_probability"])
    ]
    return text + _table(("layer", "unit", "probability", ""), rows)


def _training(run: Mapping[str, Any]) -> str:
    weights = any(task["loss_weight"] not in (None, 1.0) for task in run["tasks"].values())
    head = ("task", "training data", "head", "sampling weight", "batch size of a process")
    rows = []
    for name, task in run["tasks"].items():
        train = _codes(task["train"]) or None
        row = (f"`{name}`", train, task["head"], task["weight"], task["batch_size"])
        rows.append((*row, task["loss_weight"]) if weights else row)
    head = (*head, "loss weight") if weights else head
    return "## Training\n\n" + _table(head, rows) + "\n\n" + _table(("", ""), _run_rows(run))


def _run_rows(run: Mapping[str, Any]) -> list[tuple[str, Any]]:
    done, asked = run["iteration"], run["max_iter"]
    rows = [
        ("checkpoint", f"`{run['checkpoint']}`" + (", averaged" if run["averaged"] else "")),
        ("iterations", done if done is None or asked is None else f"{done} of {asked}"),
    ]
    numbers = [f"{key} {value}" for key, value in run["optimizer"].items() if key != "class"]
    optimizer = ", ".join([run["optimizer"]["class"], *numbers]) if run["optimizer"] else None
    rows += [("optimizer", optimizer), ("schedule of tasks", run["schedule"])]
    rows += [(key.replace("_", " "), value) for key, value in run["train"].items() if value]
    start = run["started_from"]
    if start:
        route = f", route `{start['init_route']}`" if "init_route" in start else ""
        head = f", head of `{start['init_head']}`" if "init_head" in start else ""
        rows.append(("started from", f"`{start['init_checkpoint']}`{route}{head}"))
    machine = run["run"]
    if machine is None:
        return [*rows, ("run", "the checkpoint was not in its run folder: no run.json beside it")]
    gpus = machine["num_gpus"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("gppf_d2", "detectron2", "torch"))
    return [
        *rows,
        ("config file", f"`{run['config_file']}`" if run["config_file"] else None),
        ("git commit of gppf_d2", f"`{machine['commit']}`" if machine["commit"] else None),
        ("processes", machine["world_size"]),
        ("hardware", f"{gpus} x {machine['device']} in a machine" if gpus else machine["device"]),
        ("versions", versions),
        ("started", machine["started"]),
    ]


def _results(metadata: Mapping[str, Any]) -> str:
    run, text = metadata["run"], "## Results\n\n"
    results = run["results"]
    if not results:
        return text + "Not known: the checkpoint was not beside the results.json of its run."
    text += "Of the run's last evaluation, with the heads of the run, every task on its own route."
    if None not in (run["iteration"], run["max_iter"]) and run["iteration"] != run["max_iter"]:
        text += " This checkpoint is not of the last iteration, and may not be the one evaluated."
    if run["train"].get("ema_decay") and not run["averaged"]:
        text += " It was of the averaged parameters, which these weights are not."
    first = metadata["task"]
    order = sorted(results, key=lambda task: task != first)
    data = {name: _codes(task["evaluated_on"]) for name, task in run["tasks"].items()}
    rows = [
        (f"`{task}`", data.get(task, ""), metric, _value(value))
        for task in order
        for metric, value in results[task].items()
    ]
    return f"{text}\n\n" + _table(("task", "data", "metric", "value"), rows)


def _licence(run: Mapping[str, Any]) -> str:
    datasets = dict.fromkeys(name for task in run["tasks"].values() for name in task["train"])
    named = f" ({_codes(datasets)})" if datasets else ""
    taught = (
        " Labels of `pseudo_` sets come from teachers, which the `manifest.json` of a set names: "
        "the licences of their weights, of what they were trained on and of the pictures apply too."
    )
    return (
        "## Licence\n\nWeights carry what they were trained on: the licences of the datasets"
        f"{named} apply to the use of these weights too, and those of the weights that the run "
        "started from. Some allow research alone. The licence of gppf_d2 covers its code, not "
        "these weights."
    ) + (taught if any(name.startswith("pseudo_") for name in datasets) else "")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "n/a"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None is what nobody says."""
    lines = [head, ["---"] * len(head), *rows]
    cells = (["not known" if cell is None else str(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
