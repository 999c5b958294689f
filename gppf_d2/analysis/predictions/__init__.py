"""What heads say of images, drawn: pictures, contact sheets beside the truth, errors, scores.

``predictor`` asks a head, ``drawing`` draws what it says with ``class_bars``, ``pixel_maps`` and
``placement``; ``image_scores`` and ``error_maps`` compare it with the ``truth``;
``prediction_sheets`` picks the images of a sheet and ``sheets`` lays it out.
"""
