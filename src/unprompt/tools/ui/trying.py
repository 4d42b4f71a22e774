"""The page Try: one input, and every system's answer to it side by side, while it is being
written.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from unprompt.messages import UserError
from unprompt.tools.live import Live
from unprompt.visible import visible

CSS = """
.gradio-container { width: 100%; max-width: 75rem !important; margin: 0 auto; }
.answer textarea { font-size: 1rem; line-height: 1.5; unicode-bidi: plaintext;
  -webkit-text-fill-color: currentcolor; opacity: 1; }
.figures p, .figures { font-size: .85rem; opacity: .8; min-height: 1.4rem;
  font-variant-numeric: tabular-nums; }
"""
_OFFERED = 200
"""Held-out examples in the list."""


@dataclass(frozen=True)
class _Offer:
    """What the page offers, of all contexts together."""

    live: Live
    fields: list[str]
    systems: list[str]
    examples: dict[str, dict[str, dict[str, str]]]
    """Context -> example -> its fields."""

    def of_context(self, context: str) -> list[Any]:
        """The list and the boxes that this context has."""
        fields, systems = self.live.fields(context), self.live.systems(context)
        return [
            gr.update(choices=list(self.examples[context]), value=None),
            *(gr.update(visible=name in fields, value="") for name in self.fields),
            *(gr.update(visible=name in systems) for name in self.systems),
        ]

    def filled(self, context: str, id_: str | None) -> list[Any]:
        """The boxes with an example's fields in them."""
        if not id_:
            return [*(gr.skip() for _ in self.fields), ""]
        return [*(self.examples[context][id_].get(name, "") for name in self.fields), ""]

    def ask(self, context: str, *typed: str) -> Iterator[list[Any]]:
        """One after the other, each with its figures; what goes wrong stands in the line below."""
        live = self.live
        values = {name: text or "" for name, text in zip(self.fields, typed, strict=True)}
        values = {name: values[name] for name in self.fields if name in live.fields(context)}
        texts, figures = dict.fromkeys(self.systems, ""), dict.fromkeys(self.systems, "")
        try:
            for system in live.systems(context):
                figures[system] = "thinking …"
                yield [*texts.values(), *figures.values(), ""]
                for item in live.stream(context, system, values):
                    texts[system] = visible(item if isinstance(item, str) else item.text)
                    figures[system] = figures[system] if isinstance(item, str) else item.figures
                    yield [*texts.values(), *figures.values(), ""]
        except UserError as error:
            figures = ["" if line.endswith("…") else line for line in figures.values()]
            yield [*texts.values(), *figures, visible(str(error))]


def _head(name: str, *, rated: bool) -> str:
    """The page's title, and the way to the other one."""
    way = '<p><a id="to-rate" href="../rate/">Rate answers, blinded</a></p>' if rated else ""
    what = "The same input for every system, each under its own prompt."
    return f"<h1>Try {html.escape(name)}</h1><p>{what}</p>{way}"


def page(live: Live, *, rated: bool) -> gr.Blocks:
    """The page of a run.

    Args:
        live: Its systems.
        rated: Whether there is a page Rate beside it.
    """
    offer = _Offer(
        live,
        list(dict.fromkeys(name for context in live.contexts for name in live.fields(context))),
        list(dict.fromkeys(name for context in live.contexts for name in live.systems(context))),
        {c: dict(itertools.islice(live.examples(c).items(), _OFFERED)) for c in live.contexts},
    )
    first = live.contexts[0]
    # boxes of a fixed size: one that grows lays a long answer out again and again, and the browser
    # hangs
    size: dict[str, Any] = {"lines": 9, "max_lines": 9, "interactive": False, "buttons": ["copy"]}
    private: dict[str, Any] = {"api_visibility": "private"}
    quiet: dict[str, Any] = {**private, "show_progress": "hidden"}
    with gr.Blocks(title=f"Try {live.name}", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_head(live.name, rated=rated))
        with gr.Row():
            several = len(live.contexts) > 1
            context = gr.Dropdown(live.contexts, value=first, label="Context", visible=several)
            label = "Fill in a held-out example"
            ids = list(offer.examples[first])
            example = gr.Dropdown(ids, value=None, label=label, elem_id="example")
        boxes = [
            gr.Textbox(
                label=name,
                lines=3,
                max_lines=12,
                visible=name in live.fields(first),
                elem_id=f"field-{n}",
                autofocus=n == 0,
            )
            for n, name in enumerate(offer.fields)
        ]
        go = gr.Button("Ask (Shift + Enter)", variant="primary", elem_id="ask")
        answers, lines, columns = [], [], []
        with gr.Row():
            for name in offer.systems:
                with gr.Column(min_width=260, visible=name in live.systems(first)) as column:
                    box = gr.Textbox(
                        label=name, elem_id=f"answer-{name}", elem_classes="answer", **size
                    )
                    answers.append(box)
                    lines.append(gr.HTML("", elem_id=f"figures-{name}", elem_classes="figures"))
                columns.append(column)
        wrong = gr.Textbox(
            label="What is wrong", interactive=False, visible="hidden", elem_id="wrong"
        )
        context.change(offer.of_context, context, [example, *boxes, *columns], **private)
        example.change(offer.filled, [context, example], [*boxes, wrong], **private)
        wrong.change(_seen, wrong, wrong, **quiet)
        begins, outputs = [go.click, *(box.submit for box in boxes)], [*answers, *lines, wrong]
        gr.on(begins, offer.ask, [context, *boxes], outputs, concurrency_limit=1, **quiet)
    return blocks


def _seen(text: str) -> Any:
    """A line that is seen when it says something."""
    return gr.update(visible=True if text else "hidden")
