"""The page Try: one input, and every system's answer to it side by side, while it is being
written.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from unprompt.messages import UserError
from unprompt.report.visible import visible
from unprompt.tools.live import Live

CSS = """
.gradio-container { width: 100%; max-width: 75rem !important; margin: 0 auto; }
.answer textarea { font-size: 1rem; line-height: 1.5; unicode-bidi: plaintext;
  -webkit-text-fill-color: currentcolor; opacity: 1; }
.figures p, .figures { font-size: .85rem; opacity: .8; min-height: 1.4rem;
  font-variant-numeric: tabular-nums; }
"""
_OFFERED = 200
"""Held-out examples in the list."""


def page(live: Live) -> gr.Blocks:
    """The page of a run."""
    first = live.contexts[0]
    fields = list(dict.fromkeys(name for context in live.contexts for name in live.fields(context)))
    systems = list(
        dict.fromkeys(name for context in live.contexts for name in live.systems(context))
    )
    examples = {
        context: dict(list(live.examples(context).items())[:_OFFERED]) for context in live.contexts
    }

    def of_context(context: str) -> list[Any]:
        """The boxes that this context has."""
        own, able = live.fields(context), live.systems(context)
        return [
            gr.update(choices=list(examples[context]), value=None),
            *(gr.update(visible=name in own, value="") for name in fields),
            *(gr.update(visible=name in able) for name in systems),
        ]

    def filled(context: str, id_: str | None) -> list[Any]:
        return [
            *(examples[context][id_].get(name, "") if id_ else gr.skip() for name in fields),
            "",
        ]

    def ask(context: str, *typed: str) -> Iterator[list[Any]]:
        """One after the other, each with its figures; what goes wrong stands in the line below."""
        values = {
            name: text or ""
            for name, text in zip(fields, typed, strict=True)
            if name in live.fields(context)
        }
        texts, figures = dict.fromkeys(systems, ""), dict.fromkeys(systems, "")
        try:
            for system in live.systems(context):
                figures[system] = "thinking …"
                yield [*texts.values(), *figures.values(), ""]
                for item in live.stream(context, system, values):
                    texts[system] = visible(item if isinstance(item, str) else item.text)
                    figures[system] = figures[system] if isinstance(item, str) else item.figures
                    yield [*texts.values(), *figures.values(), ""]
        except UserError as error:
            yield [
                *texts.values(),
                *("" if said.endswith("…") else said for said in figures.values()),
                visible(str(error)),
            ]

    # boxes of a fixed size: one that grows lays a long answer out again and again, and the browser
    # hangs
    with gr.Blocks(title=f"Try {live.name}", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            f"<h1>Try {html.escape(live.name)}</h1><p>The same input for every system, each under"
            " its own prompt.</p>"
        )
        with gr.Row():
            context = gr.Dropdown(
                live.contexts, value=first, label="Context", visible=len(live.contexts) > 1
            )
            example = gr.Dropdown(
                list(examples[first]),
                value=None,
                label="Fill in a held-out example",
                elem_id="example",
            )
        boxes = [
            gr.Textbox(
                label=name,
                lines=3,
                max_lines=12,
                visible=name in live.fields(first),
                elem_id=f"field-{n}",
                autofocus=n == 0,
            )
            for n, name in enumerate(fields)
        ]
        go = gr.Button("Ask (Shift + Enter)", variant="primary", elem_id="ask")
        answers, lines, columns = [], [], []
        with gr.Row():
            for system in systems:
                with gr.Column(min_width=260, visible=system in live.systems(first)) as column:
                    answers.append(
                        gr.Textbox(
                            label=system,
                            lines=9,
                            max_lines=9,
                            interactive=False,
                            elem_id=f"answer-{system}",
                            elem_classes="answer",
                            buttons=["copy"],
                        )
                    )
                    lines.append(gr.HTML("", elem_id=f"figures-{system}", elem_classes="figures"))
                columns.append(column)
        wrong = gr.Textbox(
            label="What is wrong", interactive=False, visible="hidden", elem_id="wrong"
        )
        context.change(of_context, context, [example, *boxes, *columns], api_visibility="private")
        example.change(filled, [context, example], [*boxes, wrong], api_visibility="private")
        wrong.change(
            lambda said: gr.update(visible=True if said else "hidden"),
            wrong,
            wrong,
            api_visibility="private",
            show_progress="hidden",
        )
        gr.on(
            [go.click, *(box.submit for box in boxes)],
            ask,
            [context, *boxes],
            [*answers, *lines, wrong],
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=1,
        )
    return blocks
