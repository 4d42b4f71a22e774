"""What a server was asked so far, in a file of the run's folder: one line an answer, appended as it
comes, so that a budget outlives a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
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
        return (
            self.prompt_tokens * price.input + self.completion_tokens * price.output
        ) / 1_000_000


class Ledger:
    """A server's answers of all runs in one folder.

    Args:
        path: The file; None: kept in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self.total = path, Asked()
        whole = []
        for line in (
            path.read_text("utf-8", "replace").splitlines() if path and path.is_file() else ()
        ):
            if (asked := _parsed(line)) is not None:  # the last line may have been cut by a kill
                whole.append(line)
                self._count(asked)
        if path and path.is_file():
            with replacing(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in whole))

    def add(self, asked: Asked) -> None:
        """Note one answer."""
        self._count(asked)
        if self._path:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a") as file:
                    file.write(f"{json.dumps(astuple(asked))}\n")

    def _count(self, asked: Asked) -> None:
        self.total = Asked(
            *(a + b for a, b in zip(astuple(self.total), astuple(asked), strict=True))
        )


def _parsed(line: str) -> Asked | None:
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    whole = (
        isinstance(found, list)
        and len(found) == 5
        and all(isinstance(count, int) and count >= 0 for count in found)
    )
    return Asked(*found) if whole else None


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
            self._hold(asked, 1)
        try:
            yield
        finally:
            async with self._changed:
                self._hold(asked, -1)
                self._changed.notify_all()

    def _hold(self, asked: Asked, sign: int) -> None:
        held = self._held
        self._held = Asked(
            held.answers + sign,
            held.prompt_tokens + sign * asked.prompt_tokens,
            held.completion_tokens + sign * asked.completion_tokens,
        )

    def _over(self, asked: Asked) -> str:
        """Why one more prompt may be too much, or nothing."""
        if self._budget is None:
            return ""
        spent, held = self._ledger.total, self._held
        all_ = Asked(
            0,
            *(
                getattr(spent, k) + getattr(held, k) + getattr(asked, k)
                for k in ("prompt_tokens", "completion_tokens")
            ),
        )
        if self._budget.tokens is not None and all_.tokens > self._budget.tokens:
            return (
                f"the budget of {self._budget.tokens:,} tokens is spent: {spent.answers:,} answers"
                f" took {spent.tokens:,}, and one more may be too much"
            )
        if (
            self._budget.dollars is not None
            and self._price
            and all_.dollars(self._price) > self._budget.dollars
        ):
            return (
                f"the budget of ${self._budget.dollars:g} is spent: {spent.answers:,} answers cost"
                f" ${spent.dollars(self._price):.4f}, and one more may be too much"
            )
        return ""
