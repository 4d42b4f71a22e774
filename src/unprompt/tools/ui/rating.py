"""The page Rate: blinded responses in an order of each person's own, rated by click or key, every
rating written down at once.
"""

from __future__ import annotations

import html
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from unprompt.tools.rating import ballots
from unprompt.visible import visible

CSS = """
.gradio-container { width: 100%; max-width: 52rem !important; margin: 0 auto; }
.text textarea { font-size: 1rem; line-height: 1.5; unicode-bidi: plaintext;
  -webkit-text-fill-color: currentcolor; opacity: 1; }
#rubric { margin: 0; font-size: .86rem; line-height: 1.35; }
#rubric li { margin: 0; }
#progress progress { display: block; width: 100%; height: 4px; margin-bottom: .5rem; border: 0;
  appearance: none; background: var(--border-color-primary); }
#progress progress::-webkit-progress-bar { background: var(--border-color-primary); }
#progress progress::-webkit-progress-value { background: var(--color-accent); }
#progress progress::-moz-progress-bar { background: var(--color-accent); }
"""
KEYS = """<script>
document.addEventListener("keydown", (event) => {
  const at = event.target, writes = /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName);
  const typing = writes && !at.disabled && !at.readOnly && at.offsetParent;
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const arrows = { ArrowLeft: "back", ArrowRight: "next" };
  const id = /^[0-9]$/.test(event.key) ? "rate-" + event.key : arrows[event.key];
  const button = id && document.getElementById(id);
  if (button) { event.preventDefault(); button.click(); }
});
</script>"""
_LONGEST_NAME = 80


def order(key: Mapping[str, Any], rater: str) -> list[str]:
    """The responses in this person's own order: always the same, and another than other
    people's.
    """
    ids = list(key["rows"])
    random.Random(f"{key['made_from']}:{rater}").shuffle(ids)
    return ids


def following(ids: list[str], done: Mapping[str, int], after: str | None) -> str:
    """The first response behind `after` that is not rated yet, from the beginning again at the end;
    `after` itself (or the first) if all are.
    """
    start = ids.index(after) + 1 if after else 0
    return next((id_ for id_ in [*ids[start:], *ids[:start]] if id_ not in done), after or ids[0])


def shown(key: Mapping[str, Any], path: Path, rater: str, id_: str) -> list[Any]:
    """What the page shows of a response: rater, id, progress, input, response, and a button for
    each rating, the one that was given marked.
    """
    rows, done = key["rows"], ballots.given(path).get(rater, {})
    state = f"response {order(key, rater).index(id_) + 1}"
    if len(done) >= len(rows):
        state = "all rated, thank you; you may go back and change"
    progress = (
        f"<progress max={len(rows)} value={len(done)}></progress><p>{len(done)} of {len(rows)}"
        f" rated as {html.escape(visible(rater))} · {state}</p>"
    )
    kinds = ["primary" if done.get(id_) == value else "secondary" for value in _scale(key)]
    texts = [visible(rows[id_]["input"]), visible(rows[id_]["response"])]
    return [rater, id_, progress, *texts, *(gr.update(variant=kind) for kind in kinds)]


def _scale(key: Mapping[str, Any]) -> range:
    return range(key["low"], key["high"] + 1)


def _begin(key: Mapping[str, Any], path: Path, typed: str) -> list[Any]:
    """A person's first response; without a name the page stays as it is, also where it was begun
    with one since it asked.
    """
    rater = " ".join((typed or "").split())
    if not rater or len(rater) > _LONGEST_NAME:
        return [gr.skip() for _ in range(8 + len(_scale(key)))]
    first = following(order(key, rater), ballots.given(path).get(rater, {}), None)
    switched = [gr.update(visible=False), gr.update(visible=True)]
    return [rater, *switched, *shown(key, path, rater, first)]


def _rated(key: Mapping[str, Any], path: Path, value: int, rater: str, id_: str) -> Any:
    if id_ not in key["rows"] or not rater:  # nobody's page sends this
        return gr.skip()
    ballots.save(path, rater, id_, value)
    done = ballots.given(path)[rater]
    return shown(key, path, rater, following(order(key, rater), done, id_))


def _moved(key: Mapping[str, Any], path: Path, by: int, rater: str, id_: str) -> list[Any]:
    ids = order(key, rater)
    return shown(key, path, rater, ids[(ids.index(id_) + by) % len(ids)])


def _another() -> list[Any]:
    """Who comes next is asked for a name."""
    return ["", gr.update(visible=True), gr.update(visible=False)]


def _head(name: str, by: Sequence[str]) -> str:
    """The page's title, the way to the other one, and what to rate by."""
    items = "".join(f"<li>{html.escape(visible(line))}</li>" for line in by)
    way = '<a id="to-try" href="../try/">Try the systems</a>'
    return f'<h1>Rate {html.escape(name)}</h1><p>{way}</p><ul id="rubric">{items}</ul>'


def page(name: str, key: Mapping[str, Any], path: Path, by: Sequence[str]) -> gr.Blocks:
    """The page of a run.

    Args:
        name: The run's.
        key: What is rated, as `rate.blinded` gives it.
        path: Where ratings are kept.
        by: What people are told to rate by, line by line.
    """
    ballots.create(path)
    scale, low, high = _scale(key), key["low"], key["high"]
    hidden: dict[str, Any] = {"visible": "hidden"}
    text: dict[str, Any] = {"interactive": False, "elem_classes": "text"}
    small: dict[str, Any] = {"size": "sm", "min_width": 80}
    quiet: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "concurrency_limit": None,
    }
    with gr.Blocks(title=f"Rate {name}", analytics_enabled=False, fill_width=True) as blocks:
        remembered = gr.BrowserState(
            "", storage_key=f"unprompt-rater-{key['made_from']}", secret="no secret"
        )
        gr.HTML(_head(name, by))
        with gr.Column() as who:
            gr.HTML(
                f"<p>{len(key['rows'])} responses. Each is rated on its own; who wrote it is not"
                " shown. You can stop and come back under the same name.</p>"
            )
            typed = gr.Textbox(
                label="Your name", autofocus=True, max_length=_LONGEST_NAME, elem_id="name"
            )
            start = gr.Button("Start", variant="primary", elem_id="start")
        with gr.Column(visible=False) as what:
            named = [gr.Textbox(elem_id="rater", **hidden), gr.Textbox(elem_id="id", **hidden)]
            progress = gr.HTML(elem_id="progress")
            asked = gr.Textbox(label="Input", lines=4, max_lines=4, elem_id="asked", **text)
            response = gr.Textbox(
                label="Response", lines=10, max_lines=10, elem_id="response", **text
            )
            with gr.Row():
                buttons = [gr.Button(str(n), min_width=40, elem_id=f"rate-{n}") for n in scale]
            gr.HTML(
                f"<p>{low} is worst, {high} is best. Keys: {low} to {high} rate, ← and → go back"
                " and on.</p>"
            )
            with gr.Row():
                back = gr.Button("← back", elem_id="back", **small)
                on = gr.Button("on →", elem_id="next", **small)
                other = gr.Button("another name", elem_id="other", **small)
        outputs = [*named, progress, asked, response, *buttons]
        begin, everything = partial(_begin, key, path), [remembered, who, what, *outputs]
        gr.on([start.click, typed.submit], begin, typed, everything, **quiet)
        blocks.load(begin, remembered, everything, **quiet)
        for value, button in zip(scale, buttons, strict=True):
            button.click(partial(_rated, key, path, value), named, outputs, **quiet)
        back.click(partial(_moved, key, path, -1), named, outputs, **quiet)
        on.click(partial(_moved, key, path, 1), named, outputs, **quiet)
        other.click(_another, None, [remembered, who, what], **quiet)
    return blocks
