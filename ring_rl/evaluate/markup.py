"""Pieces of HTML: tables, figures, notes, which a screen reader can read too.

Cells are HTML already; all other texts are escaped here.
"""

import base64
from collections.abc import Sequence
from html import escape


def table(
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: Sequence[int] = (),
) -> str:
    """A table whose first column names its rows; it scrolls where it is too wide.

    Args:
      caption: what the numbers are.
      headings: of the columns.
      rows: the cells, HTML.
      texts: columns of words, which begin on the left.
    """
    kinds = [' class="text"' if i in texts else "" for i in range(len(headings))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(heading)}</th>'
        for kind, heading in zip(kinds, headings, strict=True)
    )
    lines = []
    for name, *cells in rows:
        line = f'<th scope="row">{name}</th>' + "".join(
            f"<td{kind}>{cell}</td>"
            for kind, cell in zip(kinds[1:], cells, strict=True)
        )
        lines.append(f"<tr>{line}</tr>")
    body = "\n".join(lines)
    # A region with a name that the keyboard can scroll.
    return (
        f'<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(caption)}"><table>\n<caption>{escape(caption)}</caption>'
        f"\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def figure(content: bytes, alt: str, caption: str = "") -> str:
    """A chart, embedded."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image(content, alt, 'chart')}{below}</figure>"


def image(content: bytes, alt: str, kind: str, media: str = "image/png") -> str:
    """A picture, embedded; `kind` says how it is shown."""
    data = base64.b64encode(content).decode()
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:{media};base64,{data}">'


def figures(made: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return '<div class="figures">\n' + "\n".join(made) + "\n</div>"


def details(summary: str, content: str, kind: str = "") -> str:
    """What is not seen unless asked for."""
    name = f' class="{kind}"' if kind else ""
    return f"<details{name}><summary>{escape(summary)}</summary>\n{content}\n</details>"


def swatch(colour: str) -> str:
    """A square of a run's colour, before its name."""
    return f'<span class="swatch" style="background:{escape(colour)}"></span>'


def warning(heading: str, lines: Sequence[str]) -> str:
    """What a reader must not miss."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f'<div class="warn" role="note"><strong>{escape(heading)}</strong>'
        f"<ul>{items}</ul></div>"
    )


def note(text: str) -> str:
    """A paragraph in smaller type."""
    return f'<p class="note">{escape(text)}</p>'
