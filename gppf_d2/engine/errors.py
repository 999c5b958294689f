"""Errors that end a run with one sentence instead of a traceback."""

from __future__ import annotations

import os
import traceback

# What gloo and NCCL say in a collective whose other end is gone.
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited")


class UserError(Exception):
    """What a user can mend: shown as one sentence, without a traceback."""


class NonFiniteError(UserError):
    """A loss, an activation or a gradient was not finite; every rank raises it together."""


class Interrupted(UserError):
    """Ctrl-C or SIGTERM on some rank; every rank raises it together, after the checkpoint."""


def lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone; that rank knows the reason."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_GONE)


def show_traceback(error: BaseException, *, always: bool = False) -> None:
    """Print the traceback behind a sentence where GPPF_D2_TRACEBACK asks for it."""
    if always or os.environ.get("GPPF_D2_TRACEBACK"):
        traceback.print_exception(error)


def sentence(error: BaseException) -> str:
    """What an error says to a user: without quotes around a key, without an error number."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: '{error.filename}'"
    return str(error)
