r"""MuST's four teachers label a set of images, several labels an image read (section 3.1).

Boxes from a score of 0.5 on, segments of less than 0.5 are ignored, classes as distributions over
all 1,000, depth as MiDaS predicts it: relative, aligned by scale and shift in the student's loss.
Hardware: any number of machines and GPUs; under torchrun every process labels a share of the
shards. Not yet run in full. After the three teachers of configs/must/teachers:
    torchrun --nproc-per-node 8 -m gppf_d2.tools.pseudo_label \
        --config-file configs/must/labels.py --data-root DIR \
        dataset=imagenet_1k_train output=DIR/pseudo/imagenet_1k_train
    ... dataset=objects365_v2_train output=DIR/pseudo/objects365_v2_train              # or
    ... dataset= images=PICTURES output=DIR/pseudo/pictures                            # or
MiDaS comes from torch.hub (configs/common/midas.py), once, with a network; instead of it
    teachers.depth='{_target_: gppf_d2.pseudo.RunTeacher, run: output/must/teachers/nyu_depth,
                     labels: {depth: depth}}'
"""

from detectron2.config import LazyCall as L

from gppf_d2.pseudo import CallableTeacher, RunTeacher

labelling = dict(
    dataset="imagenet_1k_train",
    output="datasets/pseudo/imagenet_1k_train",
    shard_size=1024,
    batch_size=16,
    num_workers=8,
    amp="float16",
)
# folder of the runs of the teachers
runs = dict(folder="output/must/teachers")
teachers = dict(
    classes=L(RunTeacher)(run="${runs.folder}/imagenet", labels=dict(classes="classes")),
    boxes=L(RunTeacher)(run="${runs.folder}/objects365", labels=dict(boxes="boxes")),
    segments=L(RunTeacher)(run="${runs.folder}/coco_segments", labels=dict(segments="segments")),
    depth=L(CallableTeacher)(
        function="configs/common/midas.py:build",
        labels=dict(depth=dict(kind="inverse_depth")),
        options=dict(model="MiDaS"),
    ),
)
options = dict(
    classes=dict(top_k=0),
    boxes=dict(threshold=0.5),
    segments=dict(threshold=0.5, longest=640),
    depth=dict(longest=640),
)
