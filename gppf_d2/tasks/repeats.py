"""How often a stream holds each record: rare categories oversampled, datasets of equal shares.

Factors multiply: a record that its categories repeat 2 times, in a dataset whose records all count
5 times, has the factor 10. ``stream.Stream`` cuts them into whole numbers, epoch by epoch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any


def repeat_factors(categories_per_record: Iterable[Iterable[Any]], threshold: float) -> list[float]:
    """Repeat factors that oversample records with rare categories (LVIS, arXiv:1908.03195).

    f(c) is the fraction of records that hold category c, r(c) = max(1, sqrt(threshold / f(c))), and
    a record gets the largest r(c) of its categories, or 1 where it has none.

    Args:
        categories_per_record: hashable categories of every record; repetitions count once.
        threshold: frequency in (0, 1] below which a category is oversampled, 0.001 for LVIS; 0:
            never.

    Returns:
        One factor >= 1 per record.

    Raises:
        ValueError: a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"The repeat threshold is {threshold}; it is a frequency from 0 to 1.")
    records = [tuple(set(categories)) for categories in categories_per_record]
    seen = Counter(category for categories in records for category in categories)
    factor = {
        category: max(1.0, math.sqrt(threshold * len(records) / count))
        for category, count in seen.items()
    }
    return [max((factor[c] for c in categories), default=1.0) for categories in records]


def equal_shares(sizes: Sequence[int], factors: Sequence[float] | None = None) -> list[float]:
    """Repeat factors that give datasets equal shares of every epoch (MuST, section 4.2).

    With s_d, the sum of the factors of dataset d's records, and D datasets, the records of d are
    multiplied by  (s_1 + ... + s_D) / (D s_d):  an epoch stays as long as it was, and the records
    of a dataset keep their proportions to each other. A factor may be below 1: then an epoch holds
    a part of the dataset, drawn anew for every epoch.

    Args:
        sizes: number of records of each dataset, >= 1, in the order of the records.
        factors: one per record, > 0; None for ones.

    Returns:
        One factor per record.
    """
    assert min(sizes) >= 1, f"a dataset of {min(sizes)} records"
    assert factors is None or len(factors) == sum(sizes), "one factor per record"
    factors = [1.0] * sum(sizes) if factors is None else factors
    parts = [factors[end - size : end] for size, end in zip(sizes, accumulate(sizes))]
    sums = [math.fsum(part) for part in parts]
    scaled: list[float] = []
    for part, of_part in zip(parts, sums):
        share = math.fsum(sums) / (len(sizes) * of_part)
        scaled += [factor * share for factor in part]
    return scaled
