"""Errors that end a run with one sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What a user can mend: shown as one sentence, without a traceback."""


class NonFiniteError(UserError):
    """A loss, an activation or a gradient was not finite; every rank raises it together."""


class Interrupted(UserError):
    """Ctrl-C or SIGTERM on some rank; every rank raises it together, after the checkpoint."""
