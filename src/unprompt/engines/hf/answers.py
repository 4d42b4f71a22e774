"""What is whole while a batch is written or scored, told every now and then and when it is stopped:
a long batch then costs little.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from unprompt import engines
from unprompt.engines.drawing import Book
from unprompt.records import Completion, Prompt, SoftLabels


class Answer:
    """An answer that is being written, or, once it says why it stopped, is written."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text: str | None = None
        self.stop = ""


class Written:
    """The answers to prompts.

    Args:
        read: Tokens of each prompt.
        labelled: Whether their labels are in the book.
        done: See `Options`.

    Attributes:
        whole: Place of a prompt -> its completion.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        read: Sequence[int],
        *,
        labelled: bool,
        done: Callable[[dict[int, Completion]], object] | None,
    ) -> None:
        self._prompts, self._read, self._labelled, self._done = prompts, read, labelled, done
        self.whole: dict[int, Completion] = {}

    @contextlib.contextmanager
    def taking(self, answers: dict[int, Answer], book: Book) -> Iterator[Callable[[], object]]:
        """Take the answers of one batch when it ends, however that is; what is yielded looks
        whether some are to be told meanwhile.
        """
        due = time.monotonic() + engines.DONE_EVERY

        def look() -> None:
            nonlocal due
            if self._done and time.monotonic() >= due:
                self._tell(self._take(answers, book))
                due = time.monotonic() + engines.DONE_EVERY

        try:
            yield look
        except BaseException:
            self._tell(self._take(answers, book))
            raise
        self._take(answers, book)

    def _take(self, answers: dict[int, Answer], book: Book) -> dict[int, Completion]:
        """Those that became whole since the last time."""
        new = [n for n, answer in answers.items() if answer.stop and n not in self.whole]
        written = book.of(len(self._prompts)) if self._labelled and new else []
        found = dict[int, Completion]()
        for n in new:
            answer, at = answers[n], (self._prompts[n].example_id, self._prompts[n].context)
            label = written[n] if self._labelled else None
            found[n] = Completion(
                *at, answer.text or "", tuple(answer.ids), answer.stop, self._read[n], label
            )
        self.whole |= found
        return found

    def _tell(self, found: dict[int, Completion]) -> None:
        if found and self._done:
            self._done(found)


@contextlib.contextmanager
def telling(
    scored: dict[int, SoftLabels], told: Callable[[dict[int, SoftLabels]], object] | None
) -> Iterator[Callable[[], object]]:
    """The same of labels of given answers."""
    sent, due = set[int](), time.monotonic() + engines.DONE_EVERY

    def tell() -> None:
        nonlocal due
        new = {n: label for n, label in scored.items() if n not in sent}
        due = time.monotonic() + engines.DONE_EVERY
        sent.update(new)
        if new and told:
            told(new)

    try:
        yield lambda: tell() if time.monotonic() >= due else None
    except BaseException:
        tell()
        raise
