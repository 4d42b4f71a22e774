"""The page Rate: blinded responses in an order of each person's own, rated by click or key, every
rating written down at once.
"""

from __future__ import annotations

import html
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from unprompt.report.visible import visible
from unprompt.tools.rating import ballots

CSS = """
.gradio-container { width: 100%; max-width: 52rem !important; margin: 0 auto; }
.text textarea { font-size: 1rem; line-height: 1.5; unicode-bidi: plaintext;
  -webkit-text-fill-color: currentcolor; opacity: 1; }
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


def page(name: str, key: Mapping[str, Any], path: Path) -> gr.Blocks:
    """The page of a run.

    Args:
        name: The run's.
        key: What is rated, as `rate.blinded` gives it.
        path: Where ratings are kept.
    """
    ballots.create(path)
    rows, scale = key["rows"], range(key["low"], key["high"] + 1)

    def shown(rater: str, id_: str) -> list[Any]:
        """What the page shows of a response, in the order of `outputs`."""
        done = ballots.given(path).get(rater, {})
        said = (
            "all rated, thank you; you may go back and change"
            if len(done) >= len(rows)
            else f"response {order(key, rater).index(id_) + 1}"
        )
        progress = (
            f"<progress max={len(rows)} value={len(done)}></progress><p>{len(done)} of {len(rows)}"
            f" rated as {html.escape(visible(rater))} · {said}</p>"
        )
        return [
            rater,
            id_,
            progress,
            visible(rows[id_]["input"]),
            visible(rows[id_]["response"]),
            *(
                gr.update(variant="primary" if done.get(id_) == value else "secondary")
                for value in scale
            ),
        ]

    def begin(typed: str) -> list[Any]:
        rater = " ".join((typed or "").split())
        if not rater or len(rater) > _LONGEST_NAME:
            return [
                gr.skip(),
                gr.update(visible=True),
                gr.update(visible=False),
                *(gr.skip() for _ in outputs),
            ]
        first = following(order(key, rater), ballots.given(path).get(rater, {}), None)
        return [rater, gr.update(visible=False), gr.update(visible=True), *shown(rater, first)]

    def rated(value: int, rater: str, id_: str) -> list[Any]:
        if id_ not in rows or not rater:  # nobody's page sends this
            return [gr.skip() for _ in outputs]
        ballots.save(path, rater, id_, value)
        return shown(rater, following(order(key, rater), ballots.given(path).get(rater, {}), id_))

    def moved(by: int, rater: str, id_: str) -> list[Any]:
        ids = order(key, rater)
        return shown(rater, ids[(ids.index(id_) + by) % len(ids)])

    with gr.Blocks(title=f"Rate {name}", analytics_enabled=False, fill_width=True) as blocks:
        remembered = gr.BrowserState(
            "", storage_key=f"unprompt-rater-{key['made_from']}", secret="no secret"
        )
        gr.HTML(f"<h1>Rate {html.escape(name)}</h1>")
        with gr.Column() as who:
            gr.HTML(
                "<p>Every response is rated on its own; who wrote it is not shown. You can stop and"
                " come back under the same name.</p>"
            )
            typed = gr.Textbox(
                label="Your name", autofocus=True, max_length=_LONGEST_NAME, elem_id="name"
            )
            start = gr.Button("Start", variant="primary", elem_id="start")
        with gr.Column(visible=False) as what:
            rater, id_ = (
                gr.Textbox(visible="hidden", elem_id="rater"),
                gr.Textbox(visible="hidden", elem_id="id"),
            )
            progress = gr.HTML(elem_id="progress")
            asked = gr.Textbox(
                label="Input",
                lines=4,
                max_lines=4,
                interactive=False,
                elem_id="asked",
                elem_classes="text",
            )
            response = gr.Textbox(
                label="Response",
                lines=10,
                max_lines=10,
                interactive=False,
                elem_id="response",
                elem_classes="text",
            )
            with gr.Row():
                buttons = [
                    gr.Button(str(value), min_width=40, elem_id=f"rate-{value}") for value in scale
                ]
            gr.HTML(
                f"<p>{key['low']} is worst, {key['high']} is best. Keys: {key['low']} to"
                f" {key['high']} rate, ← and → go back and on.</p>"
            )
            with gr.Row():
                back, on = (
                    gr.Button("← back", size="sm", min_width=80, elem_id="back"),
                    gr.Button("on →", size="sm", min_width=80, elem_id="next"),
                )
                other = gr.Button("another name", size="sm", min_width=80, elem_id="other")
        outputs = [rater, id_, progress, asked, response, *buttons]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        gr.on([start.click, typed.submit], begin, typed, [remembered, who, what, *outputs], **quiet)
        blocks.load(begin, remembered, [remembered, who, what, *outputs], **quiet)
        for value, button in zip(scale, buttons, strict=True):
            button.click(partial(rated, value), [rater, id_], outputs, **quiet)
        back.click(partial(moved, -1), [rater, id_], outputs, **quiet)
        on.click(partial(moved, 1), [rater, id_], outputs, **quiet)
        other.click(
            lambda: ["", gr.update(visible=True), gr.update(visible=False)],
            None,
            [remembered, who, what],
            **quiet,
        )
    return blocks
