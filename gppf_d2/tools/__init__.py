"""Command-line helpers: ``python -m gppf_d2.tools.<name> --help``.

The street in front of the house: a tool may enter every room of the package, and no room imports a
tool.
"""
