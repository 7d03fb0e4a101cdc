"""One self-contained HTML page about several evaluations: tables and pictures."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from ring_rl.evaluate.picture import png
from ring_rl.evaluate.tables import COLUMNS, interval, labels, number, pick

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
       max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid #eee; white-space: nowrap; }
th { border-bottom: 1px solid #999; font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
small { color: #666; }
img { max-width: 46rem; width: 100%; height: auto; margin-top: .5rem; }
.note { color: #555; max-width: 46rem; }
"""

_NOTE = (
    "Values in brackets are 95 % bootstrap intervals. <em>first</em>, <em>mean</em> "
    "and <em>last</em> are over the trials that one policy makes within one context; "
    "<em>max of n</em>, the largest of a rollout's n returns, rewards variance and is "
    "to be read beside the others only. IQM: interquartile mean."
)


def html_page(evaluations: Sequence[dict[str, Any]]) -> str:
    """Builds the page: for each environment tables, the curve, and what was fixed.

    The page needs no other file and no network: the pictures are embedded.
    """
    environments = dict.fromkeys(e["conditions"]["environment"] for e in evaluations)
    sections = []
    for environment in environments:
        members = [
            e for e in evaluations if e["conditions"]["environment"] == environment
        ]
        sections.append(_section(environment, members))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ring_rl evaluation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>Evaluation</h1>\n<p class="note">{_NOTE}</p>\n'
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _section(environment: str, evaluations: Sequence[dict[str, Any]]) -> str:
    names = labels(evaluations)
    parts = [f"<h2>{escape(environment)}</h2>", "<h3>Return (undiscounted)</h3>"]
    parts.append(_statistics(names, evaluations))
    if evaluations[0]["normalised"] is not None:
        parts.append("<h3>D4RL score (0: random, 100: expert)</h3>")
        parts.append(_statistics(names, [e["normalised"] for e in evaluations]))
    image = base64.b64encode(png(evaluations)).decode()
    parts.append(
        f'<p><img alt="Mean return by trial on {escape(environment)}" '
        f'src="data:image/png;base64,{image}"></p>'
    )
    parts.append("<h3>Protocol</h3>")
    parts.append(_protocol(names, evaluations))
    rules = dict.fromkeys(e["interval"]["rule"] for e in evaluations)
    parts += [f'<p class="note">Intervals: {escape(rule)}.</p>' for rule in rules]
    return "\n".join(parts)


def _statistics(names: Sequence[str], statistics: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, one in zip(names, statistics, strict=True):
        cells = [escape(name)]
        for path, _ in COLUMNS:
            entry = pick(one, path)
            cells.append(
                f"{number(entry['value'])}<br><small>{interval(entry)}</small>"
            )
        rows.append(cells)
    return _table(["run", *(heading for _, heading in COLUMNS)], rows)


def _protocol(names: Sequence[str], evaluations: Sequence[dict[str, Any]]) -> str:
    headings = ["run", "agent", "control", "target return", "temperature"]
    headings += ["seeds", "tasks", "rollouts", "trials", "mean length", "terminated"]
    rows = []
    for name, one in zip(names, evaluations, strict=True):
        conditions, counts = one["conditions"], one["counts"]
        rule = escape(conditions["target_rule"])
        rows.append(
            [
                escape(name),
                escape(conditions["agent"]),
                escape(conditions["control"]),
                f"{number(conditions['target_return'])}<br><small>{rule}</small>",
                f"{conditions['temperature']:g}",
                f"{counts['seeds']}<br><small>{_list(one['seeds'])}</small>",
                *(str(counts[key]) for key in ("tasks", "rollouts", "trials")),
                f"{one['episode_length']['mean']:.1f} steps",
                f"{100 * one['terminated']['share']:.1f} %",
            ]
        )
    return _table(headings, rows)


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The cells are HTML already; the headings are not."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
