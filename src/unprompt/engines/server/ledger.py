"""What a server was asked so far, in a file of the run's folder, so that a budget outlives a kill.

A request is two lines: what it may cost at most, written ahead of sending it, and what it did cost.
A request without its second line (nobody heard the end of its answer) counts with its most. Lines
carry checksums, and what the run's answers took is the least that counts: a file that was cut or
lost gives nothing back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
import secrets
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe import Server
from unprompt.recipe.prices import Price
from unprompt.store.lines import Lines, checked, split


@dataclass(frozen=True)
class Asked:
    """Answers and what they took.

    Attributes:
        prompt_tokens, completion_tokens: As the server counts them, or as they are counted here
            where it does not.
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
        kept: Tokens of prompts and of answers that the run's folder has of this server.

    Attributes:
        total: Its answers.
        spent: What a budget counts: of the server's count and ours the larger one, and requests
            whose end nobody heard with the most they may have cost.
    """

    def __init__(self, path: Path | None = None, kept: tuple[int, int] = (0, 0)) -> None:
        self._lines = Lines(path) if path else None
        self.total, self.spent = Asked(), Asked()
        self._open: dict[str, Asked] = {}
        if path and path.is_file():
            self._read(path)
        if sum(kept) > self.spent.tokens:
            if path:
                say(
                    f"note: {path} counts {self.spent.tokens:,} tokens, but the answers in this"
                    f" run's folder took {sum(kept):,}; those count"
                )
            both = zip(astuple(self.spent)[1:3], kept, strict=True)
            self.spent = Asked(self.spent.answers, *(max(pair) for pair in both))

    @property
    def unheard(self) -> Asked:
        """Requests whose end nobody heard, with the most they may have cost."""
        return sum(self._open.values(), Asked())

    def begin(self, most: Asked) -> str:
        """A request that will be sent, and what it costs at most; gives its name."""
        name = secrets.token_hex(6)
        self._note(["sent", name, most.prompt_tokens, most.completion_tokens])
        self._open[name], self.spent = most, self.spent + most
        return name

    def end(self, name: str, counted: Asked, spent: Asked) -> None:
        """What it did cost: for the report, and for the budget."""
        self._note(["took", name, *astuple(counted), spent.prompt_tokens, spent.completion_tokens])
        self._took(name, counted, spent)

    def close(self) -> None:
        """Have all of it on the disk."""
        if self._lines:
            self._lines.close()

    def _note(self, line: list[Any]) -> None:
        if self._lines:
            self._lines.add(json.dumps(line).encode())

    def _took(self, name: str, counted: Asked, spent: Asked) -> None:
        most = self._open.pop(name, Asked())
        self.total, self.spent = self.total + counted, self.spent - most + spent

    def _read(self, path: Path) -> None:
        broken, ended = 0, set[str]()
        for line in split(path.read_bytes()):
            text = checked(line)
            match _parsed(line if text is None else text):
                case [_, _, _, _, _] as counts if text is None:  # of a version before checksums
                    self._took("", Asked(*counts), Asked(*counts))
                case ["sent", str(name), int(prompt), int(completion)] if text is not None:
                    if name not in ended:
                        most = Asked(1, prompt, completion)
                        self._open[name], self.spent = most, self.spent + most
                case ["took", str(name), *counts] if text is not None and len(counts) == 7:
                    ended.add(name)
                    self._took(name, Asked(*counts[:5]), Asked(counts[0], *counts[5:]))
                case _:
                    broken += 1
        if broken:
            say(
                f"BROKEN FILE: {path}: {broken} lines were cut or have changed; requests whose end"
                " is lost count with the most they may have cost"
            )


def _parsed(text: bytes) -> list[Any]:
    """A line's parts; none, if that is no such line."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    counts = [part for part in found if not isinstance(part, str)]
    return found if all(type(count) is int and count >= 0 for count in counts) else []


@dataclass(frozen=True)
class Attempt:
    """One request. Unless something is said about it, it counts with its most.

    Attributes:
        name: In the ledger.
        most: What it may cost.
    """

    ledger: Ledger
    name: str
    most: Asked

    def refused(self) -> None:
        """The server says that it did nothing."""
        self.ledger.end(self.name, Asked(), Asked())

    def took(self, counted: Asked, spent: Asked) -> None:
        """See `Ledger.end`."""
        self.ledger.end(self.name, counted, spent)


class Room:
    """What the budget still allows. Requests that are on their way count with the longest answers
    they may get, so it is not exceeded where prompts are measured with the server's own tokenizer.
    """

    def __init__(self, server: Server, price: Price | None, ledger: Ledger, where: str) -> None:
        self._budget, self._price, self._ledger, self._where = server.budget, price, ledger, where
        self._running = 0
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def attempt(
        self, prompt_tokens: int, completion_tokens: int, halt: asyncio.Event
    ) -> AsyncIterator[Attempt | None]:
        """Room for one request; waits for those on their way where there may be none. None if
        something else stopped the run meanwhile.

        Raises:
            UserError: There is none.
        """
        most = Asked(1, prompt_tokens, completion_tokens)
        async with self._changed:
            await self._changed.wait_for(lambda: not self._running or not self._over(most))
            over = "" if halt.is_set() else self._over(most)
            if over:
                raise UserError(
                    over,
                    where=f"{self._where}.budget",
                    fix="raise it and run again: what is answered is kept",
                )
            begun = None if halt.is_set() else Attempt(self._ledger, self._ledger.begin(most), most)
            self._running += 1
        try:
            yield begun
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _over(self, asked: Asked) -> str:
        """Why one more prompt may be too much, or nothing."""
        budget, price, spent = self._budget, self._price, self._ledger.spent
        if budget is None:
            return ""
        then, answers = spent + asked, self._ledger.total.answers
        unheard = self._ledger.unheard.tokens
        more = f" ({unheard:,} of them at most, for requests without an answer)" if unheard else ""
        if budget.tokens is not None and then.tokens > budget.tokens:
            return (
                f"the budget of {budget.tokens:,} tokens is spent: {answers:,} answers took"
                f" {spent.tokens:,}{more}, and one more may be too much"
            )
        if budget.dollars is not None and price and then.dollars(price) > budget.dollars:
            return (
                f"the budget of ${budget.dollars:g} is spent: {answers:,} answers cost"
                f" ${spent.dollars(price):.4f}, and one more may be too much"
            )
        return ""
