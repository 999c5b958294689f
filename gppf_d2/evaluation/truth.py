"""Where evaluators find metadata and ground truth, with errors that say what is missing.

Metadata comes from Detectron2's catalog by the name of the dataset; the ground truth of an image
comes with its sample, put there by the evaluation mapper at the size of the file.
"""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog


def metadata_of(dataset_name: str, key: str) -> Any:
    """One entry of a registered dataset's metadata.

    Raises:
        KeyError: the dataset is not registered or lacks the entry.
    """
    metadata = MetadataCatalog.get(dataset_name) if dataset_name in MetadataCatalog else None
    if metadata is None:
        names = ", ".join(sorted(MetadataCatalog)) or "none"
        raise KeyError(f"dataset '{dataset_name}' is not registered; registered are: {names}")
    if metadata.get(key) is None:
        raise KeyError(
            f"dataset '{dataset_name}' has no '{key}' in its metadata; add it where the dataset is "
            f"registered, or choose an evaluator for '{metadata.get('evaluator_type')}'"
        )
    return metadata.get(key)


def truth_of(sample: dict[str, Any], key: str) -> Any:
    """The ground truth that an evaluation mapper put into a sample.

    Raises:
        KeyError: the sample has none.
    """
    if key not in sample:
        raise KeyError(
            f"'{sample.get('file_name')}' has no '{key}' to compare with; evaluate a dataset with "
            "ground truth, through a mapper with is_train=False"
        )
    return sample[key]
