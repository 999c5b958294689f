"""The step and the run: everything between a config and a trained, evaluated set of tasks.

``setup`` builds the parts from a config, ``preflight`` proves on all ranks that they fit together,
``simt_trainer`` holds the step, ``hooks`` what happens around it, ``checkpoint`` and ``evaluate``
what comes in and out, ``launch`` the processes. Order of reading: ``simt_trainer`` first.
"""
