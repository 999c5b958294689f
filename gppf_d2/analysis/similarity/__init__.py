"""How alike the layers of networks represent the same images: CKA (GPPF, appendix A).

``cka`` estimates, ``features`` runs networks layer by layer, ``images`` reads what they see;
``similarity`` holds one measurement, ``figures`` and ``section`` show it.
"""
