"""What a server was asked so far, in a file of the run's folder: one line an answer, appended as it
comes, so that a budget outlives a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.recipe import Server
from unprompt.recipe.prices import Price
from unprompt.store.files import replacing, writing


@dataclass
class Asked:
    """Answers and what they took.

    Attributes:
        prompt_tokens, completion_tokens: As the server counts them.
        entries: Alternatives that the server named for labels.
        unmapped: How many of them are no token that the tokenizer knows; they are left out of the
            labels.
    """

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    entries: int = 0
    unmapped: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    def dollars(self, price: Price) -> Decimal:
        """What they cost."""
        millionths = self.prompt_tokens * price.input + self.completion_tokens * price.output
        return millionths / 1_000_000

    def __add__(self, other: Asked) -> Asked:
        return Asked(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Asked) -> Asked:
        return Asked(*map(operator.sub, astuple(self), astuple(other)))


class Ledger:
    """A server's answers of all runs in one folder.

    Args:
        path: The file; None: kept in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self.total = path, Asked()
        if not (path and path.is_file()):
            return
        with replacing(path) as partial, partial.open("w") as file:
            for line in path.read_text("utf-8", "replace").splitlines():
                if asked := _parsed(line):  # the last line may have been cut by a kill
                    self.total += asked
                    file.write(f"{line}\n")

    def add(self, asked: Asked) -> None:
        """Note one answer."""
        self.total += asked
        if self._path:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a") as file:
                    file.write(f"{json.dumps(astuple(asked))}\n")


def _parsed(line: str) -> Asked | None:
    try:
        counts: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(counts, list) or len(counts) != 5:
        return None
    whole = all(isinstance(count, int) and count >= 0 for count in counts)
    return Asked(*counts) if whole else None


class Room:
    """What the budget still allows. Prompts that are on their way count with the longest answers
    they may get, so it is never exceeded.
    """

    def __init__(self, server: Server, price: Price | None, ledger: Ledger, where: str) -> None:
        self._budget, self._price, self._ledger, self._where = server.budget, price, ledger, where
        self._held = Asked()
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def reserved(self, prompt_tokens: int, completion_tokens: int) -> AsyncIterator[None]:
        """Room for one prompt; waits for those on their way where there may be none.

        Raises:
            UserError: There is none.
        """
        asked = Asked(1, prompt_tokens, completion_tokens)
        async with self._changed:
            await self._changed.wait_for(lambda: not self._held.answers or not self._over(asked))
            if over := self._over(asked):
                raise UserError(
                    over,
                    where=f"{self._where}.budget",
                    fix="raise it and run again: what is answered is kept",
                )
            self._held += asked
        try:
            yield
        finally:
            async with self._changed:
                self._held -= asked
                self._changed.notify_all()

    def _over(self, asked: Asked) -> str:
        """Why one more prompt may be too much, or nothing."""
        budget, price, spent = self._budget, self._price, self._ledger.total
        if budget is None:
            return ""
        then = spent + self._held + asked
        if budget.tokens is not None and then.tokens > budget.tokens:
            return (
                f"the budget of {budget.tokens:,} tokens is spent: {spent.answers:,} answers took"
                f" {spent.tokens:,}, and one more may be too much"
            )
        if budget.dollars is not None and price and then.dollars(price) > budget.dollars:
            return (
                f"the budget of ${budget.dollars:g} is spent: {spent.answers:,} answers cost"
                f" ${spent.dollars(price):.4f}, and one more may be too much"
            )
        return ""
