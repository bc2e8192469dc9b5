"""The rules by which pages of the repository become pages of the site.

That the site builds, without a broken link or a page that no group has, is `make docs` itself.
"""

from collections.abc import Iterator
from typing import Any

from mkdocs.config import load_config

from docs import generate, site_pages


def entered(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        target = entry if isinstance(entry, str) else next(iter(entry.values()))
        if isinstance(target, list):
            yield from entered(target)
        else:
            yield target


def test_every_page_of_the_documentation_is_in_the_navigation_once() -> None:
    paths = [str(page.relative_to(generate.ROOT)) for page in generate.pages()]
    found = list(entered(site_pages.navigation()))
    assert sorted(found) == sorted(map(site_pages.published, paths))


def test_the_groups_are_those_of_the_index() -> None:
    index, *groups = (next(iter(entry)) for entry in site_pages.navigation())
    assert index == "Documentation"
    assert groups[:4] == ["Learn", "How to", "Understand", "Look up"]


def test_decisions_are_a_section_with_its_own_index() -> None:
    *_, decisions = next(
        entry["Understand"] for entry in site_pages.navigation() if "Understand" in entry
    )
    first, second, *_ = decisions["Decisions"]
    assert first == "decisions/README.md"
    assert second == {"Links instead of counters": "decisions/0001-links-instead-of-counters.md"}


def test_links_out_of_the_folder_lead_to_where_the_site_has_the_file() -> None:
    changed = site_pages.relinked("docs/how-to/a.md", "[x](../../compose/README.md#y) [z](b.md)")
    assert changed == "[x](../repository/compose/read-me.md#y) [z](b.md)"
    changed = site_pages.relinked("compose/README.md", "[x](../docs/topics/design.md)")
    assert changed == "[x](../../topics/design.md)"


def test_links_in_code_to_others_and_within_the_page_stay() -> None:
    text = "`[x](../../a.md)` [y](https://host/a.md) [z](#here)\n```text\n[x](../../a.md)\n```\n"
    assert site_pages.relinked("docs/how-to/a.md", text) == text
    assert list(site_pages.links("docs/how-to/a.md", text)) == []


def test_files_that_are_no_pages_are_published_when_a_page_links_them() -> None:
    assert {"compose/redis/users.acl", "LICENSE", "CHANGELOG.md"} <= site_pages.outside()


def test_what_a_code_host_shows_otherwise_is_found() -> None:
    html = "<p>Groups - one - two</p>"
    found = site_pages.rendered_otherwise("Groups\n- one\n- two\n", html)
    assert found == {"li": (0, 2), "ul": (0, 1)}
    assert site_pages.rendered_otherwise("Groups - one - two\n", html) == {}


def test_what_is_wrong_with_a_page_ends_the_build() -> None:
    """`--strict` stops at warnings: these must be some."""
    config = load_config(str(generate.ROOT / "mkdocs.yml"))
    levels = [*config.validation.links.values(), *config.validation.nav.values()]
    assert len(levels) >= 7
    assert {str(level) for level in levels} == {"30"}
