"""`report.html`: one page, self-contained, that shows the report and lets people look at the
examples behind it. Pure but for reading the template.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from unprompt.records import Grade
from unprompt.report import examples, pictures
from unprompt.report.examples import HeldOut
from unprompt.report.table import is_share
from unprompt.report.text import tables, title_of
from unprompt.report.visible import embedded, visible

_KINDS = {
    "percent": lambda v: f"{100 * v:.1f}\u00a0%",
    "points": lambda v: f"{100 * v:+.1f}",
    "hundredths": lambda v: f"{100 * v:g}",
    "value": lambda v: f"{v:.3f}",
    "change": lambda v: f"{v:+.3f}",
    "nats": lambda v: f"{v:.3f}",
    "tokens": lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.1f}",
    "seconds": lambda v: f"{v:.3f}",
    "count": lambda v: f"{v:,}",
    "times": lambda v: f"{v:.1f}",
    "dollars": lambda v: f"${v:,.2f}" if abs(v) >= 0.1 or v == 0 else f"${v:.2g}",
}

Step = str | int | tuple[str | int, ...]
"""A key of the report, a place in a list, or several of them."""


class Shown:
    """Writes numbers of a report: each is a `<data>` element that names its place in report.json (a
    JSON pointer), so that it can be traced and tested.
    """

    def __init__(self, report: dict[str, Any]) -> None:
        self._report = report

    def find(self, *path: Step) -> Any:
        """What stands there; None if nothing does."""
        found: Any = self._report
        for key in _keys(path):
            found = (
                found[key]
                if isinstance(found, list) and isinstance(key, int)
                else found.get(key)
                if isinstance(found, dict)
                else None
            )
        return found

    def __call__(self, kind: str, *path: Step) -> Markup:
        """One number, formatted; a dash where there is none."""
        value = self.find(*path)
        if value is None:
            return Markup("–")
        if isinstance(value, str):
            return Markup.escape(visible(value))
        pointer = "".join(
            "/" + str(key).replace("~", "~0").replace("/", "~1") for key in _keys(path)
        )
        return Markup('<data value="{}" data-key="{}">{}</data>').format(
            repr(value), pointer, _text(kind, value)
        )

    def interval(self, kind: str, *path: Step) -> Markup:
        """The two ends of an interval, in brackets."""
        if self.find(*path) is None:
            return Markup("")
        return Markup('<span class="ci">[{}, {}]</span>').format(
            self(kind, *path, "low"), self(kind, *path, "high")
        )


def _text(kind: str, value: float) -> str:
    text = _KINDS[kind](value)
    return (
        text if any("1" <= c <= "9" for c in text) else text.replace("-", "")
    )  # no negative nought


def _keys(path: Sequence[Step]) -> list[str | int]:
    return [key for step in path for key in (step if isinstance(step, tuple) else (step,))]


def page(report: dict[str, Any], rows: Sequence[HeldOut], grades: Sequence[Grade]) -> str:
    """`report.html`.

    Args:
        report: As `conclude` left it.
        rows: The held-out examples, for the browser and the prompts.
        grades: What the systems answered to them.
    """
    found = examples.browser(rows, grades, list(report["rounds"]))
    last = report["verdict"]["student"]
    prompts_ = {
        each["context"]: {
            "teacher": examples.vanished(each["teacher"], each["student"]),
            "student": each["student"],
        }
        for each in found
        if each["teacher"] is not None and each["rows"]
    }
    first = len(report["contexts"])
    others = [table for table in tables(report) if not table[0].startswith("Context ")]
    return rendered(
        "page.html",
        report,
        browser=Markup(embedded(found)),
        prompts=prompts_,
        last=last,
        others=others,
        count=first,
        pictures=pictures.all_(report),
        recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True, width=110),
        used=[n for n, each in enumerate(report["students"]) if each["student"] == last],
        counted=sum(len(each["rows"]) for each in found),
    )


def summary(report: dict[str, Any]) -> str:
    """The verdict and the systems, for a notebook."""
    return rendered("summary.html", report)


def rendered(template: str, report: dict[str, Any], **further: Any) -> str:
    """A template of `page/`, filled with a report and the style sheet and script that every page
    has.
    """
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            r=report,
            n=Shown(report),
            style=Markup(_file("page.css")),
            script=Markup(script),
            digest=digest,
            title_of=title_of,
            is_share=is_share,
            **further,
        )
    )


def _file(name: str) -> str:
    return files("unprompt.report").joinpath("page", name).read_text("utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    loader = jinja2.FunctionLoader(_file)
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
