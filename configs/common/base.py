"""Every section of a run with its defaults: leaf configs import these and hold differences only.

The values are those of the paper's ResNet-50 run (GPPF, appendix D.1) where it gives one.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from torch.optim import SGD

from gppf_d2.engine.optimizer import parameter_groups
from gppf_d2.modeling.lego import LegoResNet, LinearTemperature

# Given once: every mapper reads this format and every head normalises with these values.
input = dict(
    pixel_format="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

backbone = L(LegoResNet)(
    depth=50,
    # candidate units of every layer; 1 is the plain ResNet (the paper's static model)
    num_units=2,
    # CrossTaskSyncBN: statistics over all ranks that run a unit; BN: of this rank alone
    norm="CrossTaskSyncBN",
    # how ranks weigh in the statistics: equal, n (samples) or nhw (pixels)
    weighting="equal",
    # False puts the stride into the 3x3, as torchvision and timm do
    stride_in_1x1=False,
    # True keeps 12 to 30 % of the activations for 1.4 x the time
    checkpoint=False,
)

gates = dict(
    # soft mixes all units; hard computes the sampled one only
    mode="soft",
    # argmax follows the most probable unit, mean mixes by probability
    eval_mode="argmax",
    # task -> one unit per layer, for the mode "fixed"
    fixed_routes=dict(),
    temperature=L(LinearTemperature)(start=5.0, end=0.01, fraction=0.9),
)

tasks = dict()

schedule = dict(
    # sampled (the paper), stratified, pinned or per_batch
    policy="sampled",
)

optimizer = L(SGD)(
    params=L(parameter_groups)(
        weight_decay_norm=None,
        # times the learning rate, for the logits of the controllers (never decayed)
        controller_lr_multiplier=1.0,
    ),
    lr=0.16,
    momentum=0.9,
    weight_decay=5e-4,
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.001,
    # fraction of the run: 50k of 500k iterations
    warmup_length=0.1,
    warmup_method="linear",
)

train = dict(
    output_dir="output/run",
    seed=0,
    max_iter=500_000,
    # batches per step (ranks x virtual_ranks x accumulation) that lr and max_iter are meant for;
    # with k times as many, lr is multiplied and max_iter and the periods divided by k. 0: never
    reference_world_size=0,
    # auto (the GPU where there is one), cpu, cuda
    device="auto",
    # float32, bfloat16 or float16 (autocast)
    amp="float32",
    # batches of its task that a rank averages before a step
    accumulation=1,
    # for a run of one task: samples of a step, shared out to the ranks and their accumulation
    # instead of the task's batch_size per process; 0: off
    total_batch_size=0,
    # one process only: tasks per step, one after the other
    virtual_ranks=1,
    # limit of the gradient norm after the task average; 0 clips nothing
    clip_norm=0.0,
    # what to start from: plain weights (Detectron2 .pkl, torchvision, timm) for all units, with
    # noise on all but the first, or a checkpoint of a pre-training run
    init_checkpoint="",
    init_noise=0.0,
    # which units of a run's checkpoint: a task's name or a route file (routes.json, or FILE:task)
    # takes out that route as a plain backbone; dynamic takes all units, and the task learns a route
    init_route="",
    # task of that checkpoint whose head comes along, without the layers that predict its classes
    init_head="",
    # with them, where both have the same classes
    init_predictions=False,
    # patterns of names of parameters that train; all others are frozen. []: everything trains
    trainable=[],
    # DataLoader workers of every process
    num_workers=4,
    # images per batch and process in evaluation; above 1 images are padded to a common size, which
    # changes results a little and makes them depend on the number of processes
    eval_batch_size=1,
    # iterations between log lines, route records, checkpoints, evaluations (0: only at the end)
    log_period=20,
    route_period=1000,
    checkpoint_period=5000,
    eval_period=0,
    # numbered checkpoints that stay
    keep_checkpoints=3,
    # "task/metric" names (larger is better) whose best value keeps model_best_<task>.pth
    best=[],
    # decay of the parameters' moving average for evaluation; 0 keeps none
    ema_decay=0.0,
    # gradient buckets: size in MB, and bf16 on the wire ("" sends as is)
    bucket_mb=25,
    grad_compression="",
    # further hooks of Detectron2's kind by name, on every rank; None leaves one out. This one draws
    # routes and curves for TensorBoard (period 0: after the last iteration only)
    hooks=dict(
        pictures=L("gppf_d2.analysis.TrainingPictures")(period="${train.checkpoint_period}"),
    ),
    # iterations between bitwise comparisons of the replicas; 0 never compares
    replica_check_period=0,
    # compare every collective over the ranks at the end of each step (slow; to find a hang)
    debug_collectives=False,
    # seconds after which a silent rank counts as hung
    timeout=600,
)
