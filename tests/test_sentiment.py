"""How well the lexicon of `sentiment.py` tells praise from blame."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import SNELL, beside_recipes
from unprompt.recipe import Data, Evaluate
from unprompt.records import Example
from unprompt.stages import evaluate

module = beside_recipes("sentiment")
NEGATIVE, POSITIVE, polarity, sentiment = (
    module.NEGATIVE,
    module.POSITIVE,
    module.polarity,
    module.sentiment,
)

REVIEWS = [
    (1, "An absolute triumph: funny, warm and beautifully acted."),
    (1, "The staff were friendly and the food was delicious."),
    (1, "I have read it three times and loved it each time."),
    (1, "Not bad at all for the price."),
    (1, "It never gets boring, even after two hours."),
    (1, "Easy to set up and it has worked without a single problem."),
    (1, "My daughter can't put it down."),
    (1, "The plot is thin, but the performances are superb and the ending is deeply moving."),
    (1, "You won't regret buying this."),
    (1, "Battery life is impressive and the screen is gorgeous."),
    (1, "Five stars from me!"),
    (1, "Worth every penny."),
    (1, "We stayed for a week and would go back tomorrow."),
    (1, "A charming little hotel with spotless rooms."),
    (1, "The sound is crisp, and setup took a minute."),
    (1, "I was sceptical at first, yet it turned out to be the best purchase of the year."),
    (1, "Hard to find fault with this one."),
    (1, "Not only useful but also pretty."),
    (1, "It made me laugh until I cried."),
    (1, "Nothing short of brilliant."),
    (0, "A dull, predictable mess from start to finish."),
    (0, "The waiter was rude and my soup was cold."),
    (0, "It broke after two days."),
    (0, "Not worth the money."),
    (0, "I wanted to like it, but the story goes nowhere."),
    (0, "This isn't a good film by any measure."),
    (0, "The acting lacks charm and the jokes fall flat."),
    (0, "Stopped working within a week and nobody answered my emails."),
    (0, "I walked out after ten minutes."),
    (0, "Overpriced, noisy and dirty."),
    (0, "Great, another sequel nobody asked for."),
    (0, "The instructions were confusing and the parts didn't fit."),
    (0, "It could have been so much better."),
    (0, "I would not recommend this to anyone."),
    (0, "Save your money and buy something else."),
    (0, "The worst meal I've had in years."),
    (0, "Beautiful pictures, terrible script, wooden acting, and a painfully slow second half."),
    (0, "There is nothing enjoyable about this game."),
    (0, "The fabric feels cheap and the colour faded in the first wash."),
    (0, "Hardly the masterpiece that the critics promised."),
]
"""(is it favourable?, the sentence). Written before the lexicon was first tried on them; the
lexicon wasn't changed after."""


def test_sentiment_agrees_as_measured() -> None:
    """The docstring of `sentiment.py` quotes these counts; a change of the words has to measure and
    quote anew.
    """
    sides = [(sentiment(text) - 0.5) * (1 if favourable else -1) for favourable, text in REVIEWS]
    right, undecided, wrong = (
        sum(s > 0 for s in sides),
        sum(s == 0 for s in sides),
        sum(s < 0 for s in sides),
    )
    assert (len(sides), right, undecided, wrong) == (40, 27, 10, 3)
    kinds = {
        kind: np.mean([sentiment(text) for favourable, text in REVIEWS if favourable == kind])
        for kind in (0, 1)
    }
    assert kinds[1] - kinds[0] > 0.5


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0.5),
        ("The parcel came on Monday.", 0.5),
        ("good", 1.0),
        ("GOOD, bad, ugly", 1 / 3),
        ("not a very good film", 0.0),
        ("It isn\u2019t bad", 1.0),
        ("not here, but good", 1.0),  # the negation ends with its clause
        ("no doubt the best", 1.0),  # and with the first word it turns over
        ("not only good", 1.0),
        ("never ever in my life good", 1.0),  # out of reach
    ],
)
def test_sentiment_by_hand(text: str, score: float) -> None:
    assert sentiment(text) == pytest.approx(score)


def test_stems_and_endings() -> None:
    assert len(POSITIVE) >= 200
    assert len(NEGATIVE) >= 200
    assert not POSITIVE & NEGATIVE
    assert all(
        polarity(word) is True
        for word in [*POSITIVE, "loved", "loving", "happier", "thrilled", "charmingly", "nicest"]
    )
    assert all(
        polarity(word) is False
        for word in [*NEGATIVE, "messier", "dragged", "wasted", "disappointingly", "sadness"]
    )
    assert all(
        polarity(word) is None
        for word in ["hats", "table", "lovage", "pasting", "treaty", "goodbye"]
    )


def test_sentiment_needs_no_gold_answer() -> None:
    asked = Evaluate(data=Data(rows=({"text": "x"},)), metrics=("sentiment:metric",))
    evaluate.check(asked, [Example("e", {}, None)], "evaluate", str(SNELL))
    with pytest.raises(Exception, match="has no gold answer"):
        evaluate.check(
            asked.model_copy(update={"metrics": ("sentiment:metric", "accuracy")}),
            [Example("e", {}, None)],
            "evaluate",
            str(SNELL),
        )
