"""Which unit of every layer each task selects, how it learned it, and what its route costs.

``tables`` holds the numbers behind the pictures, ``costs`` parameters and FLOPs; ``heatmap``,
``curves`` and ``agreement`` draw; ``section`` is the report's part. GPPF Figures 3, 10 and 11.
"""
