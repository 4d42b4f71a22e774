"""An OpenAI-compatible server."""

from __future__ import annotations

from unprompt.engines import Can, Engine, Lent, labels, models
from unprompt.messages import UserError
from unprompt.recipe import Labels, Model, Server

CAN = Can("a server", sees="top", scores=False, averages=False)


def make(model: Model, where: str, lent: Lent) -> Engine:
    """Who asks it."""
    from unprompt.engines.server.engine import ServerEngine
    from unprompt.engines.server.ledger import Ledger

    server, tokenizer = model.server, lent.tokenizer
    assert server
    if named := model.server_tokenizer:
        tokenizer = models.load_tokenizer(named, f"{where}.server.tokenizer")
    ledger, variables = Ledger(lent.asked, lent.kept), model.chat_template
    return ServerEngine(server, where, tokenizer, ledger, lent.price, variables=variables)


def refuse_labels(server: Server, wanted: Labels, where: str) -> None:
    """Labels that this server can't give.

    Raises:
        UserError: They are such.
    """
    labels.refuse(wanted, CAN)
    if labels.KINDS[wanted.kind].needs == "top" and not server.tokenizer:
        raise UserError(
            f"{wanted.kind} labels need the server's tokenizer",
            where=f"{where}.server.tokenizer",
            fix="name it, or write labels.kind: hard",
        )
