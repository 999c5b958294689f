"""How training went, from ``metrics.json``.

``scalars`` reads it, ``curves`` draws it, ``section`` is the report's part and ``pictures`` the
hook that hands the same charts to TensorBoard.
"""
