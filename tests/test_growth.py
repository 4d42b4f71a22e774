"""What takes twice as long where there is twice as much, and not four times: counted, not timed."""

from __future__ import annotations

import csv
import decimal
import fractions
import random
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conftest import byte_tokenizer
from unprompt.metrics import numeric
from unprompt.metrics.agreement import krippendorff_alpha
from unprompt.metrics.numeric import numeric_match
from unprompt.records import Example
from unprompt.stages.lessons.build import token_ends
from unprompt.tools.rating import sheets

# -- letters of several tokens ---------------------------------------------------------------------


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.tokens = inner, 0

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        self.tokens += len(ids)
        return self.inner.decode(ids, **options)


def pieces() -> PreTrainedTokenizerFast:
    """Blanks as in SentencePiece, letters that it has not as bytes."""
    words = ["\u2581", "\u2581a", "b", "\u2581the", "\u2581\u2581", "\u4f60", ".", "\u2581\u4f60"]
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    ids = {token: n for n, token in enumerate(vocabulary)}
    model = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token="<unk>", byte_fallback=True))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", eos_token="<unk>")


TOKENIZERS = {"bytes": byte_tokenizer(), "pieces": pieces()}


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


WORDS = st.text(alphabet="ab \u4f60\u0e01\U0001f600\ufffd", max_size=12)


@given(parts=st.lists(WORDS | st.lists(st.integers(0, 258), max_size=30), max_size=4))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_tokens_end_where_they_end(parts: list[str | list[int]]) -> None:
    """As found by decoding every beginning, where tokens are no text alone."""
    tokenizer = TOKENIZERS["bytes"]
    ids = [
        id_
        for part in parts
        for id_ in (tokenizer(part).input_ids if isinstance(part, str) else part)
    ]
    ends = [len(decode(tokenizer, ids[: n + 1]).rstrip("\ufffd")) for n in range(len(ids))]
    alone = [decode(tokenizer, [id_]) for id_ in ids]
    if "".join(alone) == decode(tokenizer, ids):
        ends = np.cumsum([len(each) for each in alone], dtype=int).tolist()
    assert token_ends(tokenizer, ids) == ends


@given(WORDS)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_tokens_end_behind_whole_letters(text: str) -> None:
    """Where bytes stand for letters, each ends where the last whole letter does."""
    tokenizer = TOKENIZERS["pieces"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    read, ends = b"", []
    for token in tokenizer.convert_ids_to_tokens(ids):
        is_byte = token.startswith("<0x")
        read += bytes([int(token[3:5], 16)]) if is_byte else token.replace("\u2581", " ").encode()
        ends.append(len(read.decode(errors="ignore").removeprefix(" ").rstrip("\ufffd")))
    assert token_ends(tokenizer, ids) == ends


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", ["\u5929\u6c14", "\U0001f600\U0001f680", "\u0e01\u0e33"])
def test_lessons_grow_with_their_tokens(kind: str, text: str) -> None:
    counting = Counting(TOKENIZERS[kind])
    ids = counting.inner(text * 400, add_special_tokens=False).input_ids
    ends = token_ends(counting, ids)  # type: ignore[arg-type]
    assert ends[-1] == len(counting.inner.decode(ids))
    assert counting.tokens < 60 * len(ids), f"{len(ids)} tokens"


def test_bytes_that_are_no_text_cost_no_more() -> None:
    counting = Counting(TOKENIZERS["bytes"])
    letter = counting.inner("\u4f60a").input_ids
    ids = [*letter[:1] * 2_000, *letter]
    assert token_ends(counting, ids) == [0] * 2_002 + [2_001, 2_002]  # type: ignore[arg-type]
    assert counting.tokens < 60 * len(ids)


# -- digits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "target", "same"),
    [
        ("7" * 50_000, "7" * 50_000, 1),
        ("7" * 50_000, "7" * 49_999, 0),
        ("0." + "7" * 50_000, "0." + "7" * 50_000 + "0", 1),
        ("3" * 50_000 + "/" + "6" * 50_000, "0.5", 1),
        ("3" * 50_000 + "/" + "6" * 49_999 + "7", "0.5", 0),
        ("0" * 50_000 + "5e3", "5,000", 1),
        ("5" + "0" * 40_000, "5" + "0" * 40_000 + ".0", 1),
        ("-1 " + "1" * 30_000 + "/" + "2" * 30_000, "-3/2", 1),
    ],
)
def test_numbers_of_any_length_are_never_divided(
    answer: str, target: str, same: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Division and greatest common divisors are what takes the square of the digits."""

    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("a quotient")

    monkeypatch.setattr(fractions.Fraction, "__new__", refused)
    assert numeric_match(answer, Example("1", {}, target)) == same


@given(
    st.integers(-99, 99),
    st.integers(1, 99),
    st.integers(-99, 99),
    st.integers(1, 99),
)
@settings(derandomize=True, max_examples=200)
def test_fractions_are_one_if_they_are(a: int, b: int, c: int, d: int) -> None:
    same = numeric.Number(Decimal(a), Decimal(b)).equals(numeric.Number(Decimal(c), Decimal(d)))
    assert same == (Fraction(a, b) == Fraction(c, d))
    assert decimal.getcontext().prec < 100, "Python's own context is as it was"


# -- ratings ---------------------------------------------------------------------------------------


class Rows(dict[str, Any]):
    """Rows of a key that count how often all of them are gone through."""

    walks = 0

    def __iter__(self) -> Any:
        self.walks += 1
        return super().__iter__()


def test_sheets_are_read_once_whatever_the_number_of_raters(tmp_path: Path) -> None:
    rows = Rows({f"r{n}": {"input": "?", "response": f"x{n}"} for n in range(20)})
    key = {"low": 0, "high": 6, "rows": rows}
    with (tmp_path / "sheet.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(sheets.COLUMNS)
        for rater in range(50):
            for id_, row in rows.items():
                writer.writerow([id_, "?", row["response"], 3, f"rater {rater}"])
    rows.walks = 0
    assert len(sheets.read(tmp_path / "sheet.csv", key)) == 50 * 20
    assert rows.walks <= 1


def test_agreement_takes_no_square_of_the_ratings() -> None:
    draw = random.Random(0)
    units = [[draw.randrange(10**6), draw.randrange(10**6)] for _ in range(2_000)]
    tracemalloc.start()
    found = [krippendorff_alpha(units, level) for level in ("ordinal", "interval")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(alpha is not None and abs(alpha) < 0.1 for alpha in found)
    assert peak < 20e6, f"{peak / 1e6:.0f} MB"


@given(st.lists(st.lists(st.integers(0, 6), max_size=4), max_size=12))
@settings(derandomize=True, max_examples=150)
def test_agreement_is_as_its_definition_says(units: list[list[int]]) -> None:
    """From the matrix of coincidences (Krippendorff 2011)."""
    for level in ("ordinal", "interval"):
        found, expected = krippendorff_alpha(units, level), _by_coincidences(units, level)
        assert (found is None) == (expected is None)
        assert found is None or found == pytest.approx(expected, abs=1e-9)


def _by_coincidences(units: list[list[int]], level: str) -> float | None:
    table = np.zeros((7, 7))
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                table[a, b] += (i != j) / (len(unit) - 1) if len(unit) > 1 else 0
    totals = table.sum(1)
    middles = np.cumsum(totals) - totals / 2 if level == "ordinal" else np.arange(7.0)
    squares = (middles[:, None] - middles[None, :]) ** 2
    expected = (np.outer(totals, totals) * squares).sum() / (totals.sum() - 1)
    return float(1 - (table * squares).sum() / expected) if (totals > 0).sum() > 1 else None
