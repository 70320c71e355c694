"""The page at /docs: the reference, with a list of its sections and a search. It needs no other server."""

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from service.reference.markdown import anchor, reference
from service.reference.schema import operations

SECTION = re.compile(r"<h3>.*?(?=<h[23]>|\Z)", re.DOTALL)
SHELL = """\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <meta name="color-scheme" content="light dark" />
    <title>Reference of the API - robustreps</title>
    <link rel="icon" href="/ui/static/favicon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="/ui/static/style.css" />
    <link rel="stylesheet" href="/ui/static/reference.css" />
    <link rel="stylesheet" href="/ui/static/list.css" />
    <link rel="stylesheet" href="/ui/static/dark.css" id="dark" media="(prefers-color-scheme: dark)" />
    <script src="/ui/static/theme.js"></script>
    <script type="module" src="/ui/static/reference.js"></script>
  </head>
  <body>
    <a class="skip" href="#main">Skip to the content</a>
    <header class="site">
      <a class="brand" href="/ui/"><img src="/ui/static/favicon.svg" alt="" width="24" height="24" />robustreps</a>
      <nav aria-label="Main">
        <a href="/ui/">Jobs</a>
        <a href="/ui/models">Models</a>
        <a href="/ui/datasets">Data sets</a>
        <a href="/ui/failed">Failed</a>
        <a href="/ui/workers">Workers</a>
        <a href="/docs" aria-current="page">API</a>
      </nav>
      <span class="tools"><button type="button" id="theme"></button></span>
    </header>
    <div class="reference">
      <nav aria-label="Sections" class="sections">
        <label class="unseen" for="search">Search the reference</label>
        <input id="search" type="search" placeholder="Search, such as label or 429" autocomplete="off" />
        <p class="muted" id="found" role="status"></p>
        {sections}
      </nav>
      <main id="main" tabindex="-1">
        {content}
        <p class="muted">The same for programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1).</p>
      </main>
    </div>
  </body>
</html>
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page as HTML, without a script or a style of its own."""
    text = MarkdownIt("commonmark", {"html": True}).enable("table").render(reference(document))
    text = text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    text = text.replace("<th></th>", "<td></td>")  # a header says what a column has
    text = text.replace("<pre>", '<pre tabindex="0">')  # what is wider than its place is scrolled by keys too
    content = SECTION.sub(lambda found: f'<section class="entry">{found[0]}</section>', text)
    return SHELL.format(sections="\n".join(_sections(document)), content=content)


def _sections(document: Mapping[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><ul>"
        for _, method, operation in operations(document):
            if operation["tags"] == [tag["name"]]:
                text = f'<span class="method">{method}</span> {escape(operation["summary"])}'
                yield _link(operation["operationId"], text)
        yield "</ul>"
    yield "<h2>Objects</h2><ul>"
    yield from (_link(name, escape(name)) for name in sorted(document["components"]["schemas"]))
    yield "</ul>"


def _link(name: str, text: str) -> str:
    return f'<li><a href="#{anchor(name)}">{text}</a></li>'
