"""Stands for ``train_net.py`` in tests of the sweep: the same command line, no training.

Every start is noted in STUB_LOG. A learning rate of 0.1 "diverges", STUB_SECONDS is its duration,
and STUB_ERROR what every training fails with.
"""

import json
import math
import os
import sys
import time

overrides = dict(a.split("=", 1) for a in sys.argv[3:] if "=" in a and not a.startswith("--"))
lr = float(overrides.get("optimizer.lr", "1.0"))
decay = float(overrides.get("optimizer.weight_decay", "0.0"))
folder = overrides["train.output_dir"].strip("'")
with open(os.environ["STUB_LOG"], "a") as log:
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    log.write(json.dumps([lr, decay, os.getpid(), overrides.get("tasks.t.train"), devices]) + "\n")
print("training ...")
for name in ("model_0000001.pth", "metrics.json"):
    with open(os.path.join(folder, name), "w") as file:
        file.write("{}")
time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
if "STUB_ERROR" in os.environ:
    sys.exit(f"[rank 0] error: {os.environ['STUB_ERROR']}")
if lr == 0.1:
    sys.exit("[rank 0] error: The loss of task 't' is nan at iteration 7.")
score = 80 + math.log10(lr) - decay
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"t": {"classification/top1": score, "classification/top1-cat": 1.0}}, file)
