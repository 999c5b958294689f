"""What a run reached: cards and tables of metrics, the paper's beside them, tables of many runs."""
