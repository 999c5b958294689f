r"""Finetuning on ImageNet-1K: 1,000 classes, 1,281,167 images for training and 50,000 for the test.

GPPF, Table 6, top-1 / top-5: Scratch(repro) 78.12 / 93.95, R50(all) [54] 78.8 / -,
    SupCon [46] 78.7 / 94.3, GPPF-R50(IN21K) 79.18 / 94.59, GPPF-R50(Dyfinetune) 79.04 / 94.44.
D.2: 300 epochs of batches of 2,048, cosine with 20 epochs of warm-up, SGD; MixUp 0.8, CutMix 1.0,
Random Erasing 0.25, label smoothing 0.1 and, as in pre-training (section 4.1), RandAugment.
Hardware: 8 GPUs of 32 GB, 256 images each; on 4 with train.accumulation=2. Not yet run in full.
    python train_net.py --config-file configs/finetune/imagenet_1k.py --num-gpus 8 \
        --data-root DIR train.init_checkpoint=RUN/model_final.pth [train.init_route=dynamic]
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from ..common.evaluations import top1
from ..common.finetune import backbone, gates, input, lr_multiplier, optimizer, schedule, train
from ..common.heads import classification
from ..common.recipes import mixed_classification

EPOCHS, WARMUP, IMAGES, BATCH = 300, 20, 1_281_167, 2048

tasks = dict(
    imagenet_1k=L(Task)(
        train="imagenet_1k_train",
        batch_size=256,
        head=classification(1000, label_smoothing=0.1),
        evaluators=[top1("imagenet_1k_val")],
        **mixed_classification(1000),
    )
)

optimizer.lr = 0.01
optimizer.momentum = 0.9
optimizer.weight_decay = 1e-4
lr_multiplier.warmup_length = WARMUP / EPOCHS
train.max_iter = round(EPOCHS * IMAGES / BATCH)  # 187,671
train.total_batch_size = BATCH
train.init_route = "in21k"
# all test images have one size, so that batches are not padded
train.eval_batch_size = 64
train.checkpoint_period = 5000
train.output_dir = "output/finetune/imagenet_1k"
paper = dict(
    table="Table 6",
    metric="classification/top1",
    rows={
        "Scratch(repro)": 78.12,
        "R50(all) [54]": 78.8,
        "SupCon [46]": 78.7,
        "GPPF-R50(IN21K)": 79.18,
        "GPPF-R50(Dyfinetune)": 79.04,
    },
)
