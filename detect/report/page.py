"""Build one self-contained HTML page of figures and tables.

The page holds plotly's JavaScript, so it works offline. Its content security policy names its two scripts by their hashes:
even if markup from a hostile file reached the page, no other script would run and nothing would be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files

from plotly.offline import get_plotlyjs

from detect.report.plots import Panel
from detect.report.tables import escape, notes_list, prose
from detect.wording import listed

Sections = Mapping[str, tuple[str, Sequence[str | Sequence[Panel]]]]

MAX_FILES = 5
DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
const config = {displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: buttons};
for (const [name, figure] of Object.entries(figures)) Plotly.newPlot(name, figure.data, figure.layout, config);
for (const button of document.querySelectorAll(".copy button")) button.onclick = () => {
  const text = button.nextElementSibling;
  getSelection().selectAllChildren(text);
  if (navigator.clipboard) navigator.clipboard.writeText(text.textContent); else document.execCommand("copy");
  button.textContent = "Copied";
};
"""


def page(title: str, about: str, sections: Sections, *, read_from: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Return a whole page; equal input gives equal text.

    Args:
        title: plain text.
        about: safe markup below the title.
        sections: title and parts of each section by its id. A part is safe markup, or figures to show side by side. A
            section of empty parts is left out.
        read_from: names of the annotation files; the first ``MAX_FILES`` are shown.
        notes: lines of plain text below the title.
    """
    shown = {name: each for name, each in sections.items() if any(each[1])}
    files_shown = listed((f"<code>{escape(name)}</code>" for name in read_from), most=MAX_FILES)
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in shown.items())
    texts, panels = [], []
    for name, (heading, parts) in shown.items():
        text = "".join(part if isinstance(part, str) else grid(part) for part in parts if part)
        texts.append(f'<section id="{name}">\n<h2>{heading}</h2>\n{text}\n</section>')
        panels += [panel for part in parts if not isinstance(part, str) for panel in part]
    figures = ",\n".join(f'"{panel.name}": {panel.figure.to_json()}' for panel in panels).replace("<", "\\u003c")
    scripts = (get_plotlyjs(), DRAW)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    body = "\n".join(texts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{files("detect.report").joinpath("page.css").read_text("utf-8")}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p>{f"{about} · " if about else ""}read from {files_shown}</p>
{notes_list(notes)}
<nav>{links}</nav>
<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>
</header>
{body}
</main>
<script type="application/json" id="figures">{{{figures}}}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def tiles(counts: Mapping[str, int]) -> str:
    """Return a row of large numbers with their names.

    >>> tiles({"images": 1200})
    '<div class="tiles"><div><b>1,200</b><span>images</span></div></div>'
    """
    each = "".join(f"<div><b>{count:,}</b><span>{name}</span></div>" for name, count in counts.items())
    return f'<div class="tiles">{each}</div>'


def block(title: str, caption: str, content: str) -> str:
    """Return a table with its title, if any, and a caption on how to read it; all three arguments are safe markup."""
    head = f"<h3>{title}</h3>" if title else ""
    return f'<div class="block">{head}<p class="caption">{caption}</p>{content}</div>'


def picture_block(caption: str, png: bytes) -> str:
    """Return a PNG as wide as the page, or in its own size if it is narrower, below a caption of plain text."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f'<p><img src="{source}" alt="" style="display:block;max-width:100%"></p>'
    return f'<div class="block"><p class="caption">{prose(caption)}</p>{image}</div>'


def grid(panels: Sequence[Panel]) -> str:
    """Return places for figures, side by side."""
    return '<div class="grid">\n' + "\n".join(map(_figure, panels)) + "\n</div>"


def _figure(panel: Panel) -> str:
    keys = "".join(
        f'<span class="name"><i class="{key.mark}" style="--color:{key.color}"></i>{escape(key.label)}</span>'
        for key in panel.keys
    )
    keys = f'<div class="keys">{keys}</div>' if keys else ""
    return f"""<figure class="panel" style="grid-column:span {panel.columns}">
<h3>{html.escape(panel.title)}</h3>
<div class="plot" id="{panel.name}" style="height:{panel.figure.layout.height}px"></div>
<figcaption>{keys}<p class="caption">{prose(panel.caption)}</p></figcaption>
</figure>"""
