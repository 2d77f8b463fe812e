"""The pieces of HTML that a report is made of. All text is escaped, all figures lie in the page, there is no script."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #1c2733; --soft: #5d6b7a; --line: #dde3ea; --accent: #1f4e8c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; background: #fff; color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 3px solid var(--accent);
     overflow-wrap: anywhere; }
h3 { font-size: 1.08rem; margin: 1.8rem 0 .4rem; }
p { margin: .4rem 0; }
a { color: var(--accent); }
.soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
.tile { flex: 1 1 8.5rem; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem; }
.tile b { display: block; font-size: 1.25rem; font-weight: 600; overflow-wrap: break-word; }
.tile span { color: var(--soft); font-size: .84rem; }
.good b { color: #17683a; } .bad b { color: #a32015; }
.finding.severe, .finding.warning { border-left: 4px solid #b7791f; padding: .2rem .7rem; background: #fdf8ec; }
.finding.severe { border-color: #a32015; background: #fdf0ee; }
ul.why { padding-left: 1.2rem; margin: .6rem 0; }
figure { margin: 1rem 0; }
figure img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: .4rem; }
figure.small img { width: auto; max-width: 100%; min-width: 0; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .3rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.long { min-width: 16rem; } td.number { white-space: nowrap; }
@media (max-width: 40rem) { figure { overflow-x: auto; } figure img { min-width: 40rem; } }
details { margin: .7rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { background: #f5f7f9; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; overflow-x: auto;
      font-size: .88rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

GENERATOR = '<meta name="generator" content="sciml">'
"""By which a page of this program is known."""


def page(title: str, body: str) -> str:
    """A whole HTML document.

    Args:
        title: plain text.
        body: HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{GENERATOR}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def element(tag: str, text: str, **attributes: str) -> str:
    """One element around plain text. `kind` among the attributes becomes its class."""
    written = "".join(f' {"class" if name == "kind" else name}="{escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{written}>{escape(text)}</{tag}>"


def figure(png: bytes, caption: str) -> str:
    """A picture inside the page, with its caption as alternative text."""
    small = ' class="small"' if int.from_bytes(png[16:20], "big") < 900 else ""  # the width in the PNG header
    code = base64.b64encode(png).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{code}">'
    return f"<figure{small}>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """A table of plain values; numbers are shortened. Without a head, the first cell of each row is its title."""
    top = "<tr>" + "".join(element("th", name) for name in head) + "</tr>" if head else ""
    body = ""
    for row in rows:
        cells = [cell if isinstance(cell, Markup) else escape(short(cell)) for cell in row]
        tags = ["td" if head or place else "th" for place in range(len(cells))]
        body += "<tr>" + "".join(map(_cell, tags, cells)) + "</tr>"
    return f'<div class="wide"><table>{top}{body}</table></div>'


def _cell(tag: str, content: str) -> str:
    wide = tag == "td" and len(content) > 40 and not isinstance(content, Markup)
    short_number = tag == "td" and content[-1:].isdigit() and len(content) < 24
    style = ' class="long"' if wide else ' class="number"' if short_number else ""
    return f"<{tag}{style}>{content}</{tag}>"


def fold(title: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details>{element('summary', title)}{content}</details>"


class Markup(str):
    """Text that is HTML already."""


def short(value: Any) -> str:
    """A value as a person reads it: four figures, yes and no, the members of a list or how many it has."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(short(item) for item in value) if len(value) <= 12 else f"{len(value)} values"
    return str(value)
