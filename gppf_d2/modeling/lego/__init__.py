"""The lego backbone: candidate units in every layer, gates of a task, routes taken out of it."""

from gppf_d2.modeling.lego.controller import Gate, LinearTemperature, draw_gates
from gppf_d2.modeling.lego.layer import LegoLayer
from gppf_d2.modeling.lego.resnet import LegoResNet
from gppf_d2.modeling.lego.route import extract_route, read_route_file, route_state_dict
from gppf_d2.modeling.lego.swin import LegoSwin
from gppf_d2.modeling.lego.timm_models import LegoTimm, TimmBackbone

__all__ = [
    "Gate",
    "LegoLayer",
    "LegoResNet",
    "LegoSwin",
    "LegoTimm",
    "LinearTemperature",
    "TimmBackbone",
    "draw_gates",
    "extract_route",
    "read_route_file",
    "route_state_dict",
]
