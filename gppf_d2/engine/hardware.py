"""What a run runs on: machines, processors, memory, GPUs; for ``run.json`` and the report."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """What a process sees of the machine it runs on.

    Args:
        device: where it computes.

    Returns:
        {"host", "gpu", "cpu", "cpu_cores", "memory_gb"}; "gpu" is (what tells it from others, name)
        or None, the cores are those that the process may use.
    """
    gpu = None
    if device.type == "cuda":  # every process may see another GPU as its number 0
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        which = getattr(properties, "uuid", torch.cuda.current_device())  # torch 2.4 has none
        gpu = (str(which), properties.name)
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "host": socket.gethostname(),
        "gpu": gpu,
        "cpu": _processor(),
        "cpu_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gb": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30, 1) if pages > 0 else None,
    }


def hardware(machines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all processes of a run see, without the names of the machines.

    Args:
        machines: of every rank, what ``machine`` gives; rank 0 speaks for the processors.

    Returns:
        {"host_count", "cpu", "cpu_cores", "memory_gb", "gpus": names of the GPUs in use}.
    """
    gpus = {(one["host"], *one["gpu"]): one["gpu"][1] for one in machines if one["gpu"]}
    first = machines[0]
    return {
        "host_count": len({one["host"] for one in machines}),
        **{key: first[key] for key in ("cpu", "cpu_cores", "memory_gb")},
        "gpus": list(gpus.values()),
    }


def _processor() -> str:
    """The processor's name; where the system does not tell, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
