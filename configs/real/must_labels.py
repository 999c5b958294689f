r"""Four tasks of one lego run label a small real dataset.

MuST, section 3.1, with a GPPF model as the teacher of classes, cells, segments and depth.
Hardware: 1 CPU core. Time: a minute for 100 images. After configs/real/pack_r18.py:
    python -m gppf_d2.tools.pseudo_label --config-file configs/real/must_labels.py \
        --data-root DIR labelling.dataset=bccd_train labelling.output=DIR/pseudo/bccd_train
"""

from detectron2.config import LazyCall as L

from gppf_d2.pseudo import RunTeacher

labelling = dict(
    dataset="bccd_train",
    output="output/pseudo/bccd_train",
    shard_size=64,
    num_workers=0,
)
teachers = dict(
    lego=L(RunTeacher)(
        run="output/pack_r18",
        labels=dict(classes="cifar", cells="nuclei", segments="camvid", depth="room"),
    ),
)
