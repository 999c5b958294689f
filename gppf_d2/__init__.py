"""gppf_d2: pre-train one vision backbone on many labelled datasets of different kinds at once.

A Detectron2 extension after GPPF: every process runs a different task around a shared lego
backbone. See ``README.md`` for the tour through the rooms.
"""

__version__ = "0.1.0"
