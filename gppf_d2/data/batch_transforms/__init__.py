"""Mixing of whole batches: callables list of samples -> list of samples, for ``batch_transform``.

They draw from the global generators, which the loader seeds per batch, and leave the samples that
they are given untouched.
"""

from gppf_d2.data.batch_transforms.copy_paste import CopyPaste
from gppf_d2.data.batch_transforms.mixup_cutmix import MixUpCutMix

__all__ = ["CopyPaste", "MixUpCutMix"]
