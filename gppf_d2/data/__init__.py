"""Datasets, mappers and the loader: from files on a disk to the samples of a scheduled task.

``catalog`` registers datasets with Detectron2, ``mappers`` turn a record into a sample, ``loader``
feeds one process with the batches that the stream plan assigns to it.
"""
