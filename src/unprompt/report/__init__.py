"""Numbers to pages: `numbers` computes everything once and judges it; `page`, `markdown`,
`model_card` and `tables` show it. What there is to a section stands in `sections/`.
"""

from unprompt.report.card import model_card
from unprompt.report.compare import compare, not_compared
from unprompt.report.evidence import Evidence
from unprompt.report.examples import Examples, HeldOut, held_out
from unprompt.report.markdown import closing, markdown, tables
from unprompt.report.numbers import numbers
from unprompt.report.page import page, summary
from unprompt.report.schema import SCHEMA
from unprompt.report.verdict import conclude

__all__ = [
    "SCHEMA",
    "Evidence",
    "Examples",
    "HeldOut",
    "closing",
    "compare",
    "conclude",
    "held_out",
    "markdown",
    "model_card",
    "not_compared",
    "numbers",
    "page",
    "summary",
    "tables",
]
