"""The miniature world: toys on a ground, rendered from their geometry, written as real datasets.

Tour: ``shapes`` (ray against toy), ``scene`` (what stands where), ``paint`` (procedural textures),
``render`` (rays to pictures and ground truth), ``styles`` (the domains), ``formats`` (the files of
ImageNet, COCO, ADE20K, KITTI and VOC), ``build`` (all datasets, manifest, rename), ``official``
(miniatures of the official downloads, one module a dataset). ``../make_mini.py`` is the command.
Needs numpy, OpenCV and Pillow, not gppf_d2.
"""
