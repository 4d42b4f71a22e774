"""`report.html`: one page, self-contained, that shows the report and lets people look at the
examples behind it. Pure but for reading the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unprompt.records import Grade
from unprompt.report import examples, templates
from unprompt.report.examples import HeldOut
from unprompt.report.format import TOO_FEW, is_share, on_page
from unprompt.report.markdown import recipe
from unprompt.report.schema import SECTIONS
from unprompt.report.sections import kl, systems, title_of
from unprompt.report.verdict import conclusion
from unprompt.visible import embedded, visible

if TYPE_CHECKING:
    from unprompt.report.schema import Report

Step = str | int | tuple[str | int, ...]
"""A key of the report, a place in a list, or several of them."""


class Shown:
    """Writes numbers of a report: each is a `<data>` element that names its place in report.json (a
    JSON pointer), so that it can be traced and tested.
    """

    def __init__(self, report: Any) -> None:
        self._report = report

    def find(self, *path: Step) -> Any:
        """What stands there; None if nothing does."""
        value: Any = self._report
        for key in _keys(path):
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int):
                value = value[key]
            else:
                return None
        return value

    def __call__(self, kind: str, *path: Step) -> Markup:
        """One number, formatted; a dash where there is none."""
        value = self.find(*path)
        if value is None:
            return Markup("–")
        if isinstance(value, str):
            return Markup.escape(visible(value))
        keys = [str(key).replace("~", "~0").replace("/", "~1") for key in _keys(path)]
        return Markup('<data value="{}" data-key="{}">{}</data>').format(
            repr(value), "".join(f"/{key}" for key in keys), on_page(kind, value)
        )

    def interval(self, kind: str, *path: Step) -> Markup:
        """The two ends of an interval, in brackets, or that there are too few examples for one."""
        if self.find(*path) is None:
            return Markup("")
        if self.find(*path, "low") is None:
            return Markup('<span class="ci">{}</span>').format(TOO_FEW)
        return Markup('<span class="ci">[{}, {}]</span>').format(
            self(kind, *path, "low"), self(kind, *path, "high")
        )


def _keys(path: Sequence[Step]) -> list[str | int]:
    return [key for step in path for key in (step if isinstance(step, tuple) else (step,))]


def page(report: Report, rows: Sequence[HeldOut], grades: Sequence[Grade]) -> str:
    """`report.html`.

    Args:
        report: With its verdict.
        rows: The held-out examples, for the browser and the prompts.
        grades: What the systems answered to them.
    """
    browser = examples.browser(rows, grades, list(report["rounds"]))
    last = report["verdict"]["student"]
    prompts = {
        each["context"]: {
            "teacher": examples.vanished(each["teacher"], each["student"]),
            "student": each["student"],
        }
        for each in browser
        if each["teacher"] is not None and each["rows"]
    }
    drawn = [picture for section in SECTIONS for picture in section.pictures(report)]
    # the template itself draws the systems, with more in it
    others = [section for section in SECTIONS if section is not systems.SECTION]
    return rendered(
        "page.html",
        report,
        title_of=partial(title_of, report),
        form=f"{kl.FORM[0].upper()}{kl.FORM[1:]}.",
        browser=Markup(embedded(browser)),
        prompts=prompts,
        conclusion=conclusion(report),
        last=last,
        others=[table for section in others for table in section.tables(report)],
        pictures=[picture for picture in drawn if picture.drawing],
        recipe=recipe(report),
        used=[n for n, each in enumerate(report["students"]) if each["student"] == last],
        counted=sum(len(each["rows"]) for each in browser),
    )


def summary(report: Report) -> str:
    """The verdict and the systems, for a notebook."""
    return rendered("summary.html", report, conclusion=conclusion(report))


def rendered(template: str, report: Any, **further: Any) -> str:
    """A template that shows numbers of a report, or of several."""
    return templates.html(template, r=report, n=Shown(report), is_share=is_share, **further)
