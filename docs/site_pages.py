"""What mkdocs.yml cannot say: the site's navigation, and the pages that are outside of ``docs``.

The navigation is read from ``docs/README.md``, so that a page is entered in one place. A file of
the repository that is linked from a page and is not in ``docs`` is published below
``repository/``, and links are changed to lead there; in the checkout they are what a code host
expects. What a page looks like is compared with what it is on a code host: Python-Markdown and
CommonMark differ (a list needs an empty line before it), and a difference is a warning, which
``--strict`` makes an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
INDEX: Final = "docs/README.md"
OUTSIDE: Final = "repository"
"""The folder of the site for what is not in ``docs``."""

COMPARED: Final = ("h1", "h2", "h3", "img", "li", "ol", "pre", "table", "tr", "ul")
"""Elements of which a page has as many here as on a code host."""

_log: Final = logging.getLogger("mkdocs.hooks.site_pages")
_FENCE: Final = r"^ *```.*?^ *```$"
_LINK: Final = re.compile(
    rf"(?P<code>{_FENCE}|`[^`\n]+`)|\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<rest>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
_INFO: Final = re.compile(r"^(```\w+) .*$", re.MULTILINE)
"""A fence with more than a language: the other words are for the tests that run its block."""
_GROUP: Final = re.compile(r"^\*\*(.+?)\*\*", re.MULTILINE)
_COMMON: Final = MarkdownIt("commonmark").enable("table")


def links(page: str, text: str) -> Iterator[tuple[str, str]]:
    """(text, path from the root of the repository) of each link to a file in it."""
    for found in _LINK.finditer(text):
        if found["path"]:
            yield found["text"], _from_root(page, found["path"])


def published(path: str) -> str:
    """Where a file of the repository is in the site's sources.

    A README from outside is no index: the theme would make it that of the group that lists it.
    """
    inside = path.removeprefix("docs/")
    return inside if inside != path else f"{OUTSIDE}/{path.replace('README', 'read-me')}"


def relinked(page: str, text: str) -> str:
    """A page's text whose links lead to where the site has the files."""
    here = posixpath.dirname(published(page))

    def there(found: re.Match[str]) -> str:
        if not found["path"]:
            return found[0]
        target = posixpath.relpath(published(_from_root(page, found["path"])), here or ".")
        return f"[{found['text']}]({target}{found['rest'] or ''})"

    return _LINK.sub(there, text)


def navigation() -> list[Any]:
    """The groups of the index, each with its pages; a README opens a section of its folder."""
    groups = _GROUP.split(_read(INDEX))[1:]
    entries: list[Any] = [{"Documentation": published(INDEX)}]
    for name, text in zip(groups[::2], groups[1::2], strict=True):
        pages = {path: title for title, path in reversed([*links(INDEX, text)]) if _is_page(path)}
        if pages:
            entries.append({name: [_entry(title, path) for path, title in [*pages.items()][::-1]]})
    return entries


def outside() -> set[str]:
    """The files outside of ``docs`` that are reached from its pages by links."""
    found: set[str] = set()
    waiting = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    while waiting:
        page = waiting.pop()
        new = {path for _, path in links(page, _read(page)) if not path.startswith("docs/")} - found
        found |= new
        waiting += filter(_is_page, new)
    return found


def rendered_otherwise(markdown: str, html: str) -> dict[str, tuple[int, int]]:
    """Element → how many of it the site and a code host have, where they differ."""
    site, host = (
        Counter(re.findall(r"<([a-z0-9]+)\b", text)) for text in (html, _COMMON.render(markdown))
    )
    return {name: (site[name], host[name]) for name in COMPARED if site[name] != host[name]}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by MkDocs."""
    config.nav = navigation()
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by MkDocs: the files that are not in its folder."""
    for path in sorted(outside()):
        files.append(File.generated(config, published(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Called by MkDocs."""
    return _INFO.sub(r"\1", relinked(_source(page), markdown))


def on_page_content(html: str, *, page: Page, **_: object) -> None:
    """Called by MkDocs: warns of what a code host shows otherwise."""
    for name, (site, host) in rendered_otherwise(page.markdown or "", html).items():
        _log.warning("%s: %d <%s>, on a code host %d", _source(page), site, name, host)


def _source(page: Page) -> str:
    return Path(page.file.abs_src_path or "").relative_to(ROOT).as_posix()


def _entry(title: str, path: str) -> dict[str, Any]:
    title = title[:1].upper() + title[1:]
    if posixpath.basename(path) != "README.md" or not path.startswith("docs/"):
        return {title: published(path)}
    folder = posixpath.dirname(path)
    inner = [each for each in links(path, _read(path)) if posixpath.dirname(each[1]) == folder]
    return {title: [published(path), *(_entry(*each) for each in inner)]}


def _from_root(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _is_page(path: str) -> bool:
    return path.endswith(".md")


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
