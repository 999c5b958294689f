"""A config for tests of the sweep: every section, nothing that could be trained."""

input = backbone = gates = schedule = lr_multiplier = {}
tasks = {"t": {"train": "all", "batch_size": 1}}
optimizer = {"lr": 0.5, "weight_decay": 0.0}
train = {"output_dir": "", "device": "cpu", "max_iter": 1}
sweep = {
    "metric": "classification/top1",
    "grid": {"lr": [0.001, 0.01, 0.1], "decay": [0.0, 0.0002]},
    "set": {"optimizer.lr": "lr", "optimizer.weight_decay": "decay / lr"},
    "search": ["tasks.t.train=some"],
    "final": [],
}
