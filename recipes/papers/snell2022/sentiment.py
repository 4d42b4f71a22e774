"""How favourable an English review-like text is, by a small lexicon of our own.

It counts words; it understands nothing. It doesn't see sarcasm, comparisons ("better than this"),
degrees ("good" and "superb" count the same), opinions told without an opinion word ("I walked out
after ten minutes"), words that depend on the trade (a thriller should be "tense", a chair
shouldn't), or any other language.

Measured in tests/test_sentiment.py on 40 hand-written review sentences, a third of them hard on
purpose, to which neither words nor rules were fitted: 27 on the right side of 0.5, 10 at 0.5 (no
word found), 3 on the wrong side. Words and sentences have one author, so expect less of texts from
elsewhere. Use it to compare means over many texts of one kind, say a student's reviews with its
teacher's; for single texts ask a trained classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from unprompt.metrics import Metric
from unprompt.records import Example

_POSITIVE = """
absorb acclaim accomplished accurate achieve admirable admire adorable adore affection affordable
agreeable amaze amuse appeal appealing applaud appreciate artful astonish astound attentive
attractive authentic award awesome balanced beautiful beauty beloved benefit best better blessing
bliss bold breathtaking breezy bright brilliance brilliant captivate caring celebrate charisma charm
cheerful classy clean clear clever coherent comfort comfortable comfy commendable compassionate
compelling competent complement compliment confident congenial convenient convincing cool cosy
courteous cozy crafted creative crisp cute dazzle decent dedicated deft delectable delicate
delicious delight delightful dependable deserve dignified distinctive divine dream durable dynamic
eager easy effective efficient effortless elegance elegant eloquent enchant encourage endearing
energetic engaging engrossing enjoy enjoyable enjoyment enlighten entertain enthrall enthusiasm
enthusiastic excel excellence excellent exceptional excite exciting exhilarate exquisite
extraordinary fabulous faithful fantastic fascinate fast fault-free favorite favourite fine finest
first-rate flawless fluid fond fresh friendly fulfilling fun funny gem generous genial genius
genuine gifted glad glorious glowing good gorgeous graceful gracious grand grateful gratify great
gripping handsome handy happiness happy harmonious heartfelt heartwarming helpful heroic hilarious
honest hopeful hospitable humorous ideal imaginative immaculate immersive impeccable impress
impressive incredible ingenious innovative insightful inspire intelligent intriguing intuitive
invaluable inventive invigorate inviting irresistible joy joyful joyous kindness laudable likable
likeable liked lively lovable love lovely luminous lush luxurious magic magical magnificent marvel
marvellous marvelous masterful masterpiece mature meaningful memorable mesmerise mesmerize moving
neat nice nuanced optimistic original outstanding paradise passionate peaceful perfect perfection
phenomenal playful pleasant pleased pleases pleasing pleasure plush poetic poignant polished polite
positive powerful praise precious precise priceless proud quick radiant rapturous recommend refined
refresh relaxing reliable remarkable resonate respectful responsive rewarding rich riveting robust
safe satisfaction satisfy satisfying savory scrumptious seamless sensational sensitive serene sharp
sincere skilful skillful sleek smart smooth solid soothing spacious sparkle special spectacular
spirited splendid spotless stellar stimulating strong stunning sturdy stylish sublime subtle succeed
success successful sumptuous super superb superior supportive surpass sweet sympathetic talent
talented tasty tender terrific thankful thorough thoughtful thrill timeless top-notch touching
treasure triumph triumphant trust trustworthy unforgettable unique uplift useful user-friendly
versatile vibrant vivid warm warmth welcoming well-made well-written win winner wise witty wonder
wonderful worth worthwhile worthy wow yummy zest
"""
POSITIVE = frozenset(_POSITIVE.split())
"""Stems that speak well of something."""


_NEGATIVE = """
abandon abominable absurd abuse abysmal ache aggravate aggressive aimless amateurish anger angry
annoy anxious apathetic appal appall appalling arrogant ashamed atrocious avoid awful awkward bad
badly baffle banal bitter bland bleak bloated blunder bore boredom boring bother break breakage
broke broken brutal bug buggy bumpy burnt careless catastrophe catastrophic chaos chaotic cheat
cheesy childish clash cliche clumsy clunky clutter coarse complain complaint condescend confuse
confusing confusion contrived corny corrupt crack cramp cramped crap crappy crash creepy cringe
cringeworthy crude cruel cumbersome curse damage dated deceive deceptive defect defective deficient
deplorable depress derivative despair despicable despise detest die dingy dire dirty disagreeable
disappoint disappointing disappointment disaster disastrous disgrace disgraceful disgust dishonest
disjointed dislike dismal disorganised disorganized displease disrespectful dissatisfied distasteful
distract distress dodgy doubt drab drag dreadful dreary drivel dud dull dumb embarrass empty erratic
error excruciating expensive fail failure fake faulty fear feeble filthy flat flaw flawed flimsy
flop foolish forced forgettable foul fraud frustrate fumble garbage garbled ghastly glitch gloomy
graceless grating greasy greedy grim gross grotesque gruelling hackneyed haphazard harm harmful
harsh hate hateful hatred heartless hideous hollow hopeless horrendous horrible horrid horrific
horrify hostile humorless humourless idiotic ignorant ill-conceived inaccurate inadequate inane
incoherent incompetent incomplete inconsistent inconvenient inedible ineffective inefficient inept
inferior infuriate insincere insipid insufferable insult intolerable irrational irritate jarring
junk lackluster lacklustre laggy lame laughable lazy leak letdown lifeless limp lose loser loss
lousy ludicrous manipulative mediocre melodramatic mess messy mindless miserable misery mislead
misleading mistake monotonous moronic muddled murky nasty nauseate needless negative neglect
nightmare noisy nonsense obnoxious obscene offend offensive outdated outrage overblown overcooked
overdone overhyped overlong overpriced overrated pain painful pathetic pitiful plodding pointless
poor poorly predictable pretentious problem problematic puerile rancid regret reject repetitive
repulse repulsive resent ridiculous rip-off rotten rubbish rude ruin rushed sad sadly scam scratchy
senseless shabby shallow shame shameful shameless shoddy sick silly simplistic slapdash sloppy slow
sluggish smelly sour spoil stale stilted stink stupid substandard suck suffer sully superficial
tacky tangled tasteless tedious tedium terrible threadbare tiresome torture toxic trash trashy trite
trivial trouble troublesome ugly unacceptable unappealing unappetising unappetizing unbearable
unbelievable uncomfortable unconvincing undercooked underwhelm uneven unfair unfinished unfortunate
unfriendly unfunny unhappy unhelpful unimpressive uninspired uninspiring uninteresting unlikable
unlikeable unoriginal unpleasant unprofessional unreliable unresponsive unsafe unsatisfactory
unsatisfying unstable unusable unwatchable unwelcome unwelcoming upset useless vague vapid vile
vulgar waste wasteful weak weary weird wooden worn worse worst worthless wreck wretched wrong yawn
"""
NEGATIVE = frozenset(_NEGATIVE.split())
"""Stems that speak ill of it."""

_SUFFIXES = (
    "",
    "s",
    "es",
    "d",
    "ed",
    "r",
    "er",
    "st",
    "est",
    "ing",
    "ly",
    "ingly",
    "edly",
    "ness",
    "ment",
    "ion",
    "able",
)
_NEGATOR = re.compile(
    r"not?|never|none|nothing|nobody|neither|nor|without|cannot|hardly|barely|scarcely|lack(s|ed|ing)?|.*n't"
    r"|(is|was|are|were|do|does|did|wo|would|ca|could|should|has|have|had|ai)nt"
)
_TURNS = frozenset(("but", "however", "although", "though", "yet", "while"))
_REACH = 3
"""How many words behind a negator it still turns a word over."""
_TOKEN = re.compile(r"[a-z]+(?:[-'][a-z]+)*|[.,;:!?()\n]")


def sentiment(answer: str, example: Example | None = None) -> float:
    """The share of favourable words among the words with a sentiment: 1 all favourable, 0 all
    unfavourable, 0.5 none found or as many of each.

    The first such word within three words behind a negator ("not", "n't", "never", "lacks", ...) in
    the same clause counts for the other side, except after "not only". Words are found by stem:
    endings such as -s, -ed, -ing, -ly are taken off.

    Args:
        example: Not looked at: this metric needs no gold answer.
    """
    found = list(_words(answer))
    return sum(found) / len(found) if found else 0.5


metric = Metric(sentiment, needs_gold=False)


def _words(text: str) -> Iterator[bool]:
    """For each word with a sentiment, in order: is it favourable?"""
    reach = 0
    tokens = _TOKEN.findall(text.casefold().replace("\u2019", "'"))
    for token, following in pairwise([*tokens, ""]):
        if not token[0].isalpha() or token in _TURNS:
            reach = 0
        elif _NEGATOR.fullmatch(token):
            reach = 0 if following == "only" else _REACH
        else:
            favourable = polarity(token)
            if favourable is not None:
                yield favourable != (reach > 0)
            reach = 0 if favourable is not None else max(0, reach - 1)


def polarity(word: str) -> bool | None:
    """Is a lower-case word favourable, by its stem? None for a word without sentiment."""
    for suffix in _SUFFIXES:
        if not word.endswith(suffix):
            continue
        stem = word[: len(word) - len(suffix)]
        stems = [stem]
        if suffix.startswith(("a", "e", "i")):
            stems.append(stem + "e")  # lov-ing
        if suffix:
            if stem.endswith("i"):
                stems.append(stem[:-1] + "y")  # happi-er
            if stem[-2:-1] == stem[-1:]:
                stems.append(stem[:-1])  # dragg-ed
        for candidate in stems:
            if candidate in POSITIVE:
                return True
            if candidate in NEGATIVE:
                return False
    return None
