"""Watch every collective of this process: count them, refuse them, or compare them over the ranks.

Every call of ``torch.distributed`` passes through the dispatcher, also those hidden in modules and
those issued in backward (the mode follows autograd into its threads). ``CollectiveLog`` sees them
there and knows which module is running. Three modes:

- ``count``: record only. Tests count collectives with it.
- ``refuse``: a collective outside the allowed groups raises ``CollectiveError`` before it is
  issued. A head that talks to other ranks would hang a run in which every rank runs another task;
  the probe step of the preflight finds it this way.
- ``compare``: debugging. ``end_step`` compares what every group's members issued since the last
  call and names the first entry that differs. Two same-size collectives in another order return
  mixed-up sums without an error; what tells them apart is their label: the innermost ``tag``, or
  else the name of the module being run.

Watching makes every tensor operation slower: not for measurements.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

MODES = ("count", "refuse", "compare")
POINT_TO_POINT = ("send", "recv_", "recv_any_source_")
NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional")
NOT_COLLECTIVE = ("wait_tensor", "_wrap_tensor_autograd")

_tags = threading.local()


class CollectiveError(RuntimeError):
    """A collective that must not be, or that differs from the other ranks'."""


class Entry(NamedTuple):
    """One recorded collective.

    Args:
        op: name of the operation, for example ``allreduce_``.
        group: name of its process group, the same on all members.
        sizes: shapes of the tensors that this rank puts in.
        dtype: of the first of them, empty for a barrier.
        label: innermost tag, or the module being run, or the autograd node in backward.
        exact: whether the label is a tag or a module's name, which the ranks must agree on; a
            module and one inside it agree.
    """

    op: str
    group: str
    sizes: tuple[tuple[int, ...], ...]
    dtype: str
    label: str
    exact: bool

    def __str__(self) -> str:
        sizes = " ".join(str(list(size)) for size in self.sizes)
        return f"{self.op} {sizes} {self.dtype} ({self.label or 'no label'})"


@contextlib.contextmanager
def tag(name: str) -> Iterator[None]:
    """Label the collectives issued inside; costs next to nothing when nobody watches."""
    stack = _stack(_tags)
    stack.append(name)
    try:
        yield
    finally:
        stack.pop()


def _stack(store: threading.local) -> list:
    if not hasattr(store, "stack"):
        store.stack = []
    return store.stack


class CollectiveLog(TorchDispatchMode):
    """Context manager that sees every collective of this process.

    Args:
        mode: ``count``, ``refuse`` or ``compare``.
        model: its modules are named in messages by their full names, others by their class.
        allow: groups whose collectives ``refuse`` lets pass, for example the statistics group.

    Attributes:
        entries: what was recorded, in order. ``compare`` forgets them at ``end_step``.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(
        self,
        mode: str = "count",
        model: nn.Module | None = None,
        allow: Sequence[dist.ProcessGroup | None] = (),
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")
        self.mode = mode
        self.entries: list[Entry] = []
        self._allowed = {group.group_name for group in allow if group is not None}
        self._members: dict[str, tuple[int, ...]] = {}
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        for name, module in model.named_modules() if model is not None else ():
            self._names[module] = name
        self._running = threading.local()
        self._lock = threading.Lock()
        self._hooks: list = []

    def __enter__(self) -> CollectiveLog:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        _stack(self._running).append(module)

    def _leave_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        stack = _stack(self._running)
        while stack and stack.pop() is not module:
            pass

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func.namespace in NAMESPACES and func._opname not in NOT_COLLECTIVE:
            entry = self._entry(func, args)
            if self.mode == "refuse" and entry.group not in self._allowed:
                raise CollectiveError(
                    f"{entry.label or 'the program'} issues a collective ({entry.op}), but the "
                    "ranks run different tasks and the others would not answer: give this module "
                    "its local variant, or set its option that turns the synchronisation off"
                )
            with self._lock:
                self.entries.append(entry)
        return func(*args, **(kwargs or {}))

    def _entry(self, func: Any, args: tuple) -> Entry:
        group = ""
        for argument in args:
            if isinstance(argument, torch.ScriptObject) and not group:
                with contextlib.suppress(RuntimeError):
                    group = self._know(dist.ProcessGroup.unbox(argument))
        named = dict(zip((a.name for a in func._schema.arguments), args))
        group = group or str(named.get("group_name", ""))
        tensors = _own_tensors(func._opname, named)
        label, exact = self._label()
        return Entry(
            op=func._opname,
            group=group,
            sizes=tuple(tuple(tensor.shape) for tensor in tensors),
            dtype=str(tensors[0].dtype).removeprefix("torch.") if tensors else "",
            label=label,
            exact=exact,
        )

    def _know(self, group: dist.ProcessGroup) -> str:
        if group.group_name not in self._members:
            self._members[group.group_name] = tuple(dist.get_process_group_ranks(group))
        return group.group_name

    def _label(self) -> tuple[str, bool]:
        if _stack(_tags):
            return _stack(_tags)[-1], True
        running = _stack(self._running)
        if running:
            return self.name_of(running[-1]), self._names.get(running[-1]) != ""
        node = getattr(torch._C, "_current_autograd_node", lambda: None)()
        return ("", False) if node is None else (f"backward, {node.name()}", False)

    def name_of(self, module: nn.Module) -> str:
        """``full.name (Class)`` of a module of the model, the class alone of others."""
        name = self._names.get(module)
        kind = type(module).__name__
        return f"{name} ({kind})" if name else kind

    @property
    def counts(self) -> Counter[str]:
        """Operation -> how often it was recorded."""
        return Counter(entry.op for entry in self.entries)

    def of_group(self, group: dist.ProcessGroup) -> list[Entry]:
        """What was recorded in one group, in order."""
        return [entry for entry in self.entries if entry.group == group.group_name]

    def end_step(self, control: dist.ProcessGroup | None) -> None:
        """Compare what was recorded since the last call, group by group, then forget it.

        Collective: all ranks must call. A digest travels; the entries only if digests differ. The
        comparison itself is not recorded.

        Args:
            control: gloo group of all ranks.

        Raises:
            CollectiveError: on all ranks, naming the first entry that differs.
        """
        entries, members = self.entries, dict(self._members)
        try:
            mine: dict[str, list[Entry]] = {}
            for entry in entries:
                if entry.op not in POINT_TO_POINT:
                    mine.setdefault(entry.group, []).append(entry)
            difference = _compare(mine, members, control)
        finally:
            self.entries = []
        if difference is not None:
            raise CollectiveError(difference)


def _own_tensors(op: str, named: dict[str, Any]) -> list[Tensor]:
    """The tensors of a call whose shapes all members of the group share."""
    order = ("input_tensors", "input_tensor", "input", "inputs", "tensors", "tensor")
    if op.startswith("scatter"):
        order = ("output_tensors",)
    value = next((named[name] for name in order if name in named), [])
    return [value] if isinstance(value, Tensor) else [v for v in value if isinstance(v, Tensor)]


def _compare(
    mine: dict[str, list[Entry]],
    members: dict[str, tuple[int, ...]],
    control: dist.ProcessGroup | None,
) -> str | None:
    """The sentence about the first difference, the same on every rank. Collective."""
    world_size = dist.get_world_size(control)
    digests = {
        group: hashlib.blake2b(repr(entries).encode(), digest_size=8).hexdigest()
        for group, entries in mine.items()
    }
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, (digests, members), group=control)
    ranks_of = {group: ranks for _, known in everyone for group, ranks in known.items()}
    suspects = [
        group
        for group in sorted(ranks_of)
        if len({everyone[rank][0].get(group) for rank in ranks_of[group]}) > 1
    ]
    if not suspects:
        return None
    lists: list[Any] = [None] * world_size
    dist.all_gather_object(lists, {group: mine.get(group, []) for group in suspects}, group=control)
    for group in suspects:
        first, *others = ranks_of[group]
        for other in others:
            text = _first_difference(first, lists[first][group], other, lists[other][group])
            if text is not None:
                return f"collectives differ in group {group!r}: {text}"
    return None


def _agree(a: Entry, b: Entry) -> bool:
    """Whether two labels may be the same collective: a rank may join a layer from outside it."""
    if a.label == b.label or not (a.exact and b.exact):
        return True
    outer, inner = sorted((entry.label.split(" (")[0] for entry in (a, b)), key=len)
    return inner.startswith(f"{outer}.")


def _first_difference(
    rank: int, entries: list[Entry], other: int, others: list[Entry]
) -> str | None:
    for position in range(max(len(entries), len(others))):
        a = entries[position] if position < len(entries) else None
        b = others[position] if position < len(others) else None
        if a is not None and b is not None and a[:4] == b[:4] and _agree(a, b):
            continue
        before = f" after {entries[position - 1]}" if position else ""
        return (
            f"number {position}{before} is {a or 'missing'} on rank {rank} and "
            f"{b or 'missing'} on rank {other}"
        )
    return None
