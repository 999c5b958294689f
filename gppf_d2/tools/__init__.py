"""Command-line tools: ``python -m gppf_d2.tools.<name> --help``.

The street in front of the house: a tool may enter every room of the package, and no room imports a
tool.
"""

import warnings

# Deprecations inside Detectron2 and torch that a user of either can do nothing about.
for _module in ("torch", "detectron2", "fvcore", "builtins"):
    warnings.filterwarnings("ignore", module=rf"{_module}(\..*)?")
