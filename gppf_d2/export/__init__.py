"""A task's route leaves the lego as a plain backbone for Detectron2, torchvision or timm.

Doors: :func:`gppf_d2.export.backbone.export_backbone` writes weights, facts and a model card,
:func:`gppf_d2.export.route.route_of` reads a route.
"""
