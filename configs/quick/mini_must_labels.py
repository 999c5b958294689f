r"""The four teachers of the miniature world label its pictures without labels, or another set.

In miniature: MuST, section 3.1, "Pseudo labeling".
Hardware: 1 CPU core. Time: half a minute. After configs/quick/mini_must_teachers.py:
    python -m gppf_d2.tools.pseudo_label --config-file configs/quick/mini_must_labels.py \
        --data-root output/data
    python -m gppf_d2.tools.view_labels output/data/pseudo/mini_unlabelled --output labels.html
"""

from detectron2.config import LazyCall as L

from gppf_d2.pseudo import RunTeacher

labelling = dict(
    dataset="mini_unlabelled",
    output="output/data/pseudo/mini_unlabelled",
    shard_size=64,
    num_workers=0,
)
# folder of the runs of the teachers
runs = dict(folder="output/must/teachers")
teachers = {
    label: L(RunTeacher)(run=f"${{runs.folder}}/{label}", labels={label: label})
    for label in ("classes", "boxes", "segments", "depth")
}
# 0.5 in the paper: after minutes of training no box of eight classes is that sure
options = dict(boxes=dict(threshold=0.15))
