"""The report as Markdown, and its tables for the terminal."""

from __future__ import annotations

from typing import Any

import yaml

from unprompt.report import costs, judged, shots
from unprompt.report.table import Table, is_share

_TITLES = {
    "teacher": "teacher (teacher prompt)",
    "before": "before (base model, student prompt)",
    "after": "after (student, student prompt)",
}


def tables(report: dict[str, Any]) -> list[Table]:
    """A table for each context, and those that compare contexts."""
    titles = {
        name: f"{name} ({s['model']} model, {s['prompt']} prompt)"
        for name, s in report.get("systems", {}).items()
    }
    found: list[Table] = []
    for name, entry in report["contexts"].items():
        found.append((f"Context {name}", *_systems(entry, titles), _facts(entry)))
        found += shots.tables(name, entry)
    compared = (
        _servers(report),
        _grid(report, titles),
        _retention(report),
        *_associations(report),
        _drift(report),
        _margins(report),
    )
    return [
        *found,
        *(table for table in compared if table),
        *judged.tables(report),
        *costs.tables(report),
    ]


def _servers(report: dict[str, Any]) -> Table | None:
    """What endpoints were asked, by all runs in the folder."""
    rows = [
        [
            f"{who}: {found['model']}",
            f"{found['answers']:,}",
            f"{found['prompt_tokens']:,}",
            f"{found['completion_tokens']:,}",
            f"{found['dollars']:.4f}" if "dollars" in found else "unknown",
            f"{found['unmapped']:,} of {found['entries']:,}",
        ]
        for who, found in report.get("servers", {}).items()
    ]
    columns = [
        "server",
        "answers",
        "prompt tokens",
        "answer tokens",
        "dollars",
        "alternatives that are no known token",
    ]
    return ("Servers", columns, rows, []) if rows else None


def title_of(system: str) -> str:
    """A system in words."""
    if system.endswith("_teacher_prompt"):
        return (
            f"{title_of(system.removesuffix('_teacher_prompt')).split(' (')[0]}, with the teacher"
            " prompt"
        )
    return _TITLES.get(system, f"{system} (student, student prompt)")


def _value(metric: str, figures: dict[str, Any]) -> str:
    return _mean(figures, is_share(metric, figures))


def _mean(m: dict[str, float], share: bool) -> str:
    if not share:
        return f"{m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
    return f"{m['mean']:.1%} [{m['low']:.1%}, {m['high']:.1%}]"


def _change(m: dict[str, float], share: bool) -> str:
    if not share:
        return f"{m['mean']:+.3f} [{m['low']:+.3f}, {m['high']:+.3f}]"
    return f"{100 * m['mean']:+.1f} [{100 * m['low']:+.1f}, {100 * m['high']:+.1f}]"


def _systems(entry: dict[str, Any], titles: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    if "systems" not in entry:
        return [], []
    first = next(iter(entry["systems"].values()))
    names, taught = list(first["metrics"]), "teacher" in entry["systems"]
    columns = ["system"]
    for metric in names:
        columns += [f"{metric} [95 %]", "to teacher [95 %]"] if taught else [f"{metric} [95 %]"]
    several = sum("gap_closed" in values for values in entry["systems"].values()) > 1
    columns += ["gap closed"] if several else []
    columns += ["prompt tokens", "completion tokens", "seconds/call"]
    rows = []
    for system, values in entry["systems"].items():
        row = [titles.get(system) or title_of(system)]
        for metric in names:
            m = values["metrics"][metric]
            row.append(_value(metric, m))
            if taught:
                share = is_share(metric, m)
                row.append("-" if system == "teacher" else _change(m["to_teacher"], share))
        if several:
            row.append(f"{values['gap_closed']['value']:.1%}" if "gap_closed" in values else "-")
        seconds = values["seconds_per_call"]
        row += [
            f"{values['prompt_tokens']:.1f}",
            f"{values['completion_tokens']:.1f}",
            "-" if seconds is None else f"{seconds:.3f}",
        ]
        rows.append(row)
    return columns, rows


def _facts(entry: dict[str, Any]) -> list[str]:
    distilled, systems = entry["distilled"], entry.get("systems", {})
    if distilled["gold"] is not None:
        lines = [
            f"taught: gold answers {_short(distilled['gold'])} to {_short(distilled['student'])}"
        ]
    elif "lessons" in entry:
        kept = _short(distilled["extract"])
        lines = [
            f"distilled: {_short(distilled['teacher'])} into {_short(distilled['student'])},"
            f" keeping {kept} of the answer"
        ]
    else:
        lines = [f"only evaluated: {_short(distilled['student'])}"]
    for system, values in systems.items():
        if "gap_closed" in values:
            gap, before, after = (
                values["gap_closed"],
                systems["before"]["kl_nats_per_token"]["mean"],
                values["kl_nats_per_token"]["mean"],
            )
            lines.append(
                f"gap closed{'' if system == 'after' else ' by ' + system}: {gap['value']:.1%}"
                f" [{gap['low']:.1%}, {gap['high']:.1%}] of KL(teacher || student), {before:.3f} ->"
                f" {after:.3f} nats per token, on {values['kl_nats_per_token']['examples']}"
                " held-out inputs"
            )
    if "kl_left_out" in entry:
        lines.append(f"no KL(teacher || student) and no gap closed: {entry['kl_left_out']}")
    if "prompt_tokens_saved" in entry:
        lines.append(
            f"prompt tokens per call: {systems['teacher']['prompt_tokens']:.1f} ->"
            f" {systems['before']['prompt_tokens']:.1f}, {entry['prompt_tokens_saved']:.1f} saved"
            f" ({entry['times_fewer_prompt_tokens']:.1f} times fewer)"
        )
    lines += [
        f"{values['extraction_failures']} of {values['examples']} answers of '{system}' could not"
        " be extracted and count as wrong"
        for system, values in systems.items()
        if values["extraction_failures"]
    ]
    lines += [
        f"{values['lenient_failures']} of {values['examples']} answers of '{system}' could not be"
        " extracted leniently either"
        for system, values in systems.items()
        if values.get("lenient_failures")
    ]
    groups = next((values["groups"] for values in systems.values()), None)
    if groups:
        lines.append(f"intervals over {groups} groups of examples")
    if "lessons" not in entry:
        return lines
    for where, counts in entry["drawn"].items():
        lines.append(
            f"sampled for {where}: "
            + ", ".join(f"{count} {what}" for what, count in counts.items())
        )
    for whose, counts in entry["filtered"].items():
        lines.append(
            f"filtered answers of {whose}: "
            + ", ".join(f"{count} {what}" for what, count in counts.items())
        )
    failed = entry["failed_extractions"]
    dropped = (
        ", ".join(f"{count} {reason}" for reason, count in failed["reasons"].items()) or "none"
    )
    several = f" of {len(entry['taught_by'])} teachers" if len(entry["taught_by"]) > 1 else ""
    lines.append(
        f"inputs: {entry['inputs']}; lessons: {entry['lessons']}{several}; dropped:"
        f" {sum(failed['reasons'].values())} ({dropped})"
    )
    if failed["examples"]:
        lines.append(
            "dropped inputs: "
            + ", ".join(failed["examples"][:20])
            + (", ..." if len(failed["examples"]) > 20 else "")
        )
    if entry["cut_at_limit"]:
        lines.append(
            f"answers cut at max_new_tokens: {entry['cut_at_limit']} (taught without an end token)"
        )
    lines.append(
        "overlap: " + "; ".join(f"{count} {what}" for what, count in entry["overlap"].items())
    )
    return lines


def _grid(report: dict[str, Any], titles: dict[str, str]) -> Table | None:
    """Every system on every context."""
    shown = {
        name: entry["systems"]
        for name, entry in report["contexts"].items()
        if entry.get("systems") and entry["systems"]["before"]["metrics"]
    }
    if len(shown) < 2:
        return None
    rows = []
    for system in dict.fromkeys(system for systems in shown.values() for system in systems):
        found = [
            (next(iter(systems["before"]["metrics"])), systems.get(system))
            for systems in shown.values()
        ]
        rows.append(
            [
                titles.get(system) or title_of(system),
                *(_value(metric, s["metrics"][metric]) if s else "-" for metric, s in found),
            ]
        )
    return (
        "Systems",
        [
            "system",
            *(
                f"{name}: {next(iter(systems['before']['metrics']))} [95 %]"
                for name, systems in shown.items()
            ),
        ],
        rows,
        [],
    )


def _retention(report: dict[str, Any]) -> Table | None:
    """After every round, every context: what was kept and what was overwritten."""
    shown = {
        name: entry["systems"]
        for name, entry in report["contexts"].items()
        if entry.get("systems") and entry["systems"]["before"]["metrics"]
    }
    if len(shown) < 2 or len(report["rounds"]) < 2:
        return None
    rows = []
    for system in ("teacher", "before", *report["rounds"]):
        cells = []
        for name, systems in shown.items():
            metric = next(iter(systems["before"]["metrics"]))
            taught = "*" if name in report["rounds"].get(system, {}).get("contexts", ()) else ""
            cells.append(
                _value(metric, systems[system]["metrics"][metric]) + taught
                if system in systems
                else "-"
            )
        rows.append([system, *cells])
    columns = [
        "after round",
        *(f"{name}: {next(iter(systems['before']['metrics']))}" for name, systems in shown.items()),
    ]
    return "Retention and overwriting", columns, rows, ["* taught in that round"]


def _associations(report: dict[str, Any]) -> list[Table]:
    if "association" not in report:
        return []
    names, systems = report["association"]["contexts"], report["association"]["systems"]
    share = report["association"].get("is_share", True)
    means = [
        [system, _mean(values["correct"], share), _mean(values["wrong"], share)]
        for system, values in systems.items()
    ]
    found: list[Table] = [("Association", ["system", "correct [95 %]", "wrong [95 %]"], means, [])]
    for system, values in systems.items():
        rows = [
            [f"prompt of {name}", *(f"{mean:.1%}" if share else f"{mean:.3f}" for mean in row)]
            for name, row in zip(names, values["matrix"], strict=True)
        ]
        found.append(
            (
                f"Association matrix, {system}",
                ["", *(f"inputs of {name}" for name in names)],
                rows,
                [],
            )
        )
    return found


def _drift(report: dict[str, Any]) -> Table | None:
    if "drift" not in report:
        return None
    rows = [
        [name, f"{d['mean']:.4f} [{d['low']:.4f}, {d['high']:.4f}]"]
        for name, d in report["drift"].items()
    ]
    inputs, limit = (
        next(iter(report["drift"].values()))["inputs"],
        report["recipe"]["drift"]["limit"],
    )
    lines = [f"on {inputs} unrelated inputs; limit: {'none' if limit is None else f'{limit:g}'}"]
    return "Drift", ["student", "KL(base || student), nats per token [95 %]"], rows, lines


def _margins(report: dict[str, Any]) -> Table | None:
    if "margins" not in report:
        return None
    rows = [
        [
            m["task"],
            *(_change(m[key], m.get("is_share", True)) for key in ("in_context", "distilled")),
        ]
        for m in report["margins"]["tasks"]
    ]
    c = report["margins"]["correlation"]
    line = (
        f"no correlation: {c['undefined']}"
        if "undefined" in c
        else (
            f"Pearson r = {c['r']:.2f} [{c['low']:.2f}, {c['high']:.2f}], p = {c['p']:.3f}, over"
            f" {c['tasks']} tasks"
        )
    )
    return (
        "Margins",
        ["task", "in context (teachers) [95 %]", "distilled (students) [95 %]"],
        rows,
        [line],
    )


def _short(written: Any) -> str:
    """A template or rule as it is written, on one line; the middle of a long one left out (the
    whole stands in the recipe below).
    """
    text = " ".join(str(written).split())
    return f"`{text}`" if len(text) <= 100 else f"`{text[:60]} ... {text[-30:]}`"


def markdown(report: dict[str, Any]) -> str:
    """`report.md`."""
    parts = [f"# {report['name']}", ""]
    for title, columns, rows, lines in tables(report):
        parts += [f"## {title}", ""]
        if rows:
            parts += [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows), ""]
        parts += [*(f"- {line}" for line in lines), ""]
    parts += ["## Training", ""]
    for name, training in report["rounds"].items():
        replayed = f" ({training['replayed']} of them replayed)" if training["replayed"] else ""
        what = (
            f"{', '.join(training['contexts'])}, taught by {training['teacher']}, starting from"
            f" {training['start']}"
        )
        parts += [
            f"- {name}: {what}: {training['steps']} steps on {training['lessons']}"
            f" lessons{replayed}; loss {training['first_loss']:.4f} -> {training['last_loss']:.4f}"
            f" nats per weighted token.{shots.dropped(training)}"
        ]
    parts += [
        "",
        "## Use the student",
        "",
        "```python",
        *report["use"],
        "```",
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        + f"; {report['machine']['system']}",
        "",
        "## Recipe",
        "",
        "```yaml",
        yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True, width=110).rstrip(),
        "```",
        "",
    ]
    return "\n".join(parts)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
