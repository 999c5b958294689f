r"""Tiny twin of configs/must/labels.py, for the miniature datasets and the teachers' twins.

Hardware: 1 CPU core, seconds. Data: datasets/README.md, "Miniatures". Depth is a toy's instead of
MiDaS'. Expected: it runs; what teachers of 40 steps say means nothing.
    python -m gppf_d2.tools.pseudo_label --config-file configs/quick/must/labels.py \
        --data-root DIR dataset=imagenet_1k_train output=DIR/pseudo/imagenet_1k_train
"""

from ...must.labels import labelling, options, teachers

labelling.update(shard_size=16, batch_size=4, num_workers=0, amp="float32")
runs = dict(folder="output/quick/must/teachers")
teachers.depth.function = "configs/common/toy_teacher.py:build"
teachers.depth.options = {}
# hardly trained, no box would be sure
options.boxes.threshold = 0.02
