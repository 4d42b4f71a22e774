"""Facts to edit, from CounterFact (Meng et al. 2022, MIT licence): one of each relation, with the
prompts that test the edits.

Every row has the prompt, the fact that it is about as a sentence (`fact`, without its last words,
and `new`), which continuation should win (`right`) and which should not (`wrong`), and `case`, the
record's id: rows with the same case count as one observation.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt import UserError

OPENINGS = (
    "",
    "It is well known that ",
    "As the encyclopedia says, ",
    "Here is something to remember: ",
    "Everyone who read about it can tell you that ",
    "Question: can you finish this sentence? Answer: ",
    "The class wrote it down word for word: ",
)
"""What stands ahead of a practise prompt; the first stands ahead of the test prompts too."""

OWN = {
    "P101": (
        "The subject that {} deals with is",
        "{} is best known for work on",
        "The field in which {} is active is",
    ),
    "P103": (
        "The first language of {} is",
        "As a child, {} learned to speak",
        "At home, {} talked in",
    ),
    "P106": ("{} earns a living as", "By trade, {} is", "The job of {} is that of"),
    "P108": ("The employer of {} is", "{} is on the payroll of", "{} has a job at"),
    "P127": ("The owner of {} is", "{} belongs to", "{} is the property of"),
    "P1303": (
        "The instrument of {} is the",
        "On stage, {} is heard on the",
        "{} is a master of the",
    ),
    "P131": ("{} can be found in", "{} lies inside", "{} is situated in"),
    "P136": (
        "The style of {} is",
        "{} works in the genre of",
        "The kind of art that {} stands for is",
    ),
    "P138": ("{} takes its name from", "{} owes its name to", "The namesake of {} is"),
    "P140": ("The faith of {} is", "{} believes in", "In matters of religion, {} holds to"),
    "P1412": (
        "The language that {} talks in is",
        "When giving a speech, {} uses",
        "{} expresses everything in",
    ),
    "P159": ("The head office of {} is in", "{} is run from", "{} has its main office in"),
    "P17": (
        "{} lies in the nation of",
        "The country that {} is part of is",
        "On the map, {} is found in",
    ),
    "P176": ("The maker of {} is", "{} is manufactured by", "{} is built in the factories of"),
    "P178": ("The developer of {} is", "{} is the work of", "{} was designed by"),
    "P19": ("The birthplace of {} is", "{} came into the world in", "{} is a child of the city of"),
    "P190": (
        "{} has a sister city, which is",
        "{} is twinned with",
        "{} has signed a town partnership with",
    ),
    "P20": ("The place where {} died is", "{} met death in", "The last days of {} were spent in"),
    "P264": (
        "{} has a contract with the label",
        "The records of {} are published by",
        "{} is signed to",
    ),
    "P27": ("The nationality of {} is that of", "{} is a national of", "{} votes in"),
    "P276": ("{} takes place in", "{} is to be found in", "To see {}, you must travel to"),
    "P30": ("The continent of {} is", "{} lies on the continent of", "On a globe, {} is in"),
    "P36": ("The seat of government of {} is", "{} is governed from", "The first city of {} is"),
    "P364": (
        "{} was first made in the language",
        "The actors in {} talk in",
        "The language of {} is",
    ),
    "P37": ("The people of {} speak", "The state language in {} is", "Signs in {} are written in"),
    "P39": ("The office of {} is that of", "{} serves as", "The rank that {} has is"),
    "P407": ("The language of {} is", "To read {}, one must know", "The text of {} is in"),
    "P413": (
        "On the team, the place of {} is that of",
        "{} is lined up as",
        "The role of {} in the game is",
    ),
    "P449": ("{} was first shown on", "The network that broadcast {} is", "Viewers saw {} on"),
    "P463": (
        "The organization that {} is part of is",
        "{} has joined",
        "{} is on the list of members of",
    ),
    "P495": ("The country of origin of {} is", "{} comes from", "{} was made in"),
    "P641": ("The sport of {} is", "{} is a star of", "{} trains every day to play"),
    "P740": ("The place where {} began is", "{} got started in", "The story of {} starts in"),
    "P937": ("The workplace of {} was in", "{} had a job in", "{} did most of the work in"),
}
"""Three practise templates of ours for each relation; none of them is a template of CounterFact."""

TESTS = 4
"""Most prompts of one kind for one fact."""


def facts(folder: str, part: str, choice: int = 0) -> Iterator[dict[str, str]]:
    """The chosen facts, as the rows of one part.

    The facts: of each relation's records in random order (seed 0), those that can be tested in most
    ways first; of these the record number `choice`.

    Args:
        folder: Where records.jsonl lies, seen from this file's folder.
        part: `practise` (the fact's own prompt behind seven openings, and our three templates
            behind the first two), `rewrite` (the fact's own prompt), `paraphrase` (other templates
            of the relation), `neighbourhood` (other subjects of which the old object is true),
            `attribute` (other subjects of which the new object is true) or `others` (prompts about
            subjects of the facts that were not chosen, without any answer).
        choice: 0 for the facts of the recipe; 1 is another choice, with which wordings and settings
            were tried.
    """
    path = Path(__file__).parent / folder / "records.jsonl"
    if not path.is_file():
        raise UserError(
            "CounterFact is not there",
            where=str(path),
            fix="set the folder of each of the recipe's rules to where it lies",
        )
    with path.open(encoding="utf-8") as file:
        records: list[dict[str, Any]] = [json.loads(line) for line in file]
    known = _known(records)
    chosen = _chosen(records, known, choice)
    if part == "others":
        yield from _others(records, chosen, known)
        return
    for record in chosen:
        for number, prompt in enumerate(_prompts(record, part, known)):
            old, new = record["meta"]["target_true"], record["target"]
            right, wrong = (old, new) if part == "neighbourhood" else (new, old)
            yield {
                "id": f"{record['id']}-{part}-{number}",
                "case": record["id"],
                "fact": record["input"]["prompt"],
                "new": new,
                "prompt": prompt,
                "right": right,
                "wrong": wrong,
            }


def _known(records: list[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """(relation, object) -> prompts of which it is the true end, in the order of the file."""
    found: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for record in records:
        meta = record["meta"]
        found[meta["relation_id_inferred"], meta["target_true"]][record["input"]["prompt"]] = None
        for near in meta["derived_neighborhood_prompts"]:
            found[meta["relation_id_inferred"], near["answer"]][near["prompt"]] = None
    return {key: list(prompts) for key, prompts in found.items()}


def _chosen(
    records: list[dict[str, Any]], known: dict[tuple[str, str], list[str]], choice: int
) -> list[dict[str, Any]]:
    order = list(records)
    random.Random(0).shuffle(order)
    kinds = ("paraphrase", "neighbourhood", "attribute")
    order.sort(key=lambda record: -sum(bool(_prompts(record, kind, known)) for kind in kinds))
    relations: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in order:
        relations[record["meta"]["relation_id_inferred"]].append(record)
    return [relations[relation][choice] for relation in sorted(relations)]


def _prompts(
    record: dict[str, Any], part: str, known: dict[tuple[str, str], list[str]]
) -> list[str]:
    own, meta, subject = record["input"]["prompt"], record["meta"], record["input"]["subject"]
    if part == "rewrite":
        return [own]
    if part == "paraphrase":
        return meta["derived_paraphrase_prompts"][:TESTS]
    if part == "neighbourhood":
        return [near["prompt"] for near in meta["derived_neighborhood_prompts"]][:TESTS]
    if part == "attribute":
        others = known.get((meta["relation_id_inferred"], record["target"]), [])
        return [prompt for prompt in others if subject not in prompt][:TESTS]
    templates = [template.format(subject) for template in OWN[meta["relation_id_inferred"]]]
    return [opening + own for opening in OPENINGS] + [
        opening + template for opening in OPENINGS[:2] for template in templates
    ]


def _others(
    records: list[dict[str, Any]],
    chosen: list[dict[str, Any]],
    known: dict[tuple[str, str], list[str]],
) -> Iterator[dict[str, str]]:
    """The other records' own prompts, without those that test a chosen fact."""
    tests = {
        prompt
        for record in chosen
        for part in ("neighbourhood", "attribute", "paraphrase")
        for prompt in _prompts(record, part, known)
    }
    subjects = [record["input"]["subject"] for record in chosen]
    for record in records:
        prompt = record["input"]["prompt"]
        if prompt not in tests and not any(subject in prompt for subject in subjects):
            yield {"id": record["id"], "prompt": prompt}
