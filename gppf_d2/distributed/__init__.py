"""Collectives: synchronised norms, the task average, process groups, agreement between ranks."""
