"""Numbers to pages: `numbers` computes everything once, `conclude` judges it; `page`, `markdown`,
`model_card` and `tables` show it.
"""

from unprompt.report.card import model_card
from unprompt.report.compare import compare
from unprompt.report.examples import Examples, HeldOut, held_out
from unprompt.report.numbers import SCHEMA, numbers
from unprompt.report.page import page, summary
from unprompt.report.text import markdown, tables
from unprompt.report.verdict import conclude

__all__ = [
    "SCHEMA",
    "Examples",
    "HeldOut",
    "compare",
    "conclude",
    "held_out",
    "markdown",
    "model_card",
    "numbers",
    "page",
    "summary",
    "tables",
]
