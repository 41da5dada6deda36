"""MkDocs hooks that add repository pages which the docs link to, and tables that are made from the code."""

from __future__ import annotations

import argparse
import json
import posixpath
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = "docs"
SHOWN_AS = "repository"
"""The folder of the site for repository files that are not pages of the docs."""
LINK = re.compile(
    r"(?P<label>!?\[[^\]\n]*(?:\n[^\]\n]*)?\])\((?P<target>(?!\w+:|#)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)"
)
PLACE = re.compile(r"<!-- made from the code: (?P<name>[\w-]+)(?: (?P<argument>[\w-]+))? -->")
FENCES = {".py": "python", ".c": "c", ".json": "json", ".md": "markdown", ".tsv": "text"}


def on_files(files: Files, config: Any) -> Files:
    """Add every repository file that a page links to, directly or through other files."""
    waiting = [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for path in linked_files(page.content_string, repository_path(page.src_uri)):
            if files.get_file_from_path(shown_at(path)) is None:
                files.append(shown := File.generated(config, shown_at(path), content=content_of(path)))
                if path.endswith(".md"):
                    waiting.append(shown)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert the parts that are made from the code, and point links to their targets in the site."""
    own = repository_path(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        path = target_of(link, own)
        if path is None or path.startswith(f"{DOCS}/"):
            return link[0] if path is None else _link(link, posixpath.relpath(path[len(DOCS) + 1 :], folder))
        if not (ROOT / path).is_file():  # a folder: it has no page
            return link["label"][1:-1]
        return _link(link, posixpath.relpath(shown_at(path), folder))

    folder = posixpath.dirname(page.file.src_uri)
    return PLACE.sub(lambda place: MADE[place["name"]](place["argument"]), LINK.sub(lead, markdown))


def _link(link: re.Match[str], target: str) -> str:
    return f"{link['label']}({target}{link['anchor'] or ''})"


def repository_path(src_uri: str) -> str:
    """Return the path of a site page in the repository."""
    prefix = f"{SHOWN_AS}/"
    return src_uri[len(prefix) :] if src_uri.startswith(prefix) else f"{DOCS}/{src_uri}"


def shown_at(path: str) -> str:
    """Return the path of a repository file in the site; source code gets its own page."""
    is_page = path.endswith(".md") or Path(path).suffix not in FENCES
    return f"{SHOWN_AS}/{path}" if is_page else f"{SHOWN_AS}/{path}.md"


def content_of(path: str) -> str | bytes:
    """Return the site content for a file: a page as it is, source code as a page with one block, a picture as bytes."""
    suffix = Path(path).suffix
    if suffix not in FENCES:
        return (ROOT / path).read_bytes()
    text = (ROOT / path).read_text("utf-8")
    return text if suffix == ".md" else f"# `{path}`\n\n````{FENCES[suffix]}\n{text}````\n"


def linked_files(markdown: str, own: str) -> Iterator[str]:
    """Yield the repository files outside the docs that a page links to."""
    for link in LINK.finditer(markdown):
        path = target_of(link, own)
        if path is not None and not path.startswith(f"{DOCS}/") and (ROOT / path).is_file():
            yield path


def target_of(link: re.Match[str], own: str) -> str | None:
    """Return the repository path that a link of the page at ``own`` leads to; None for a link within the docs."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(own), link["target"]))
    is_within_docs = own.startswith(f"{DOCS}/") and path.startswith(f"{DOCS}/")
    return None if is_within_docs else path


def usage(command: str | None) -> str:
    """Return the options of a command as tables, or the overview of all commands."""
    from leantune.cli.parser import build_parser

    parser = build_parser(shows_all=True)
    if command is None:
        return f"```text\n{parser.format_help()}```"
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    own = commands.choices[command]
    examples = str(own.epilog).partition("\n")[2]
    parts = [
        f"{own.description}",
        f"```text\n{own.usage}\n```",
        "Examples:",
        f"```text\n{textwrap.dedent(examples)}\n```",
    ]
    has_keys = False
    for group in own._action_groups:
        actions = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        if command != WITH_KEYS:
            has_keys |= any(each.dest.startswith("key_") for each in actions)
            actions = [each for each in actions if not each.dest.startswith("key_")]
        if actions:
            parts.append(_options(group, actions, own))
    if has_keys:
        parts.append(
            f"All options of [leantune {WITH_KEYS}](#leantune-{WITH_KEYS}) that are recipe keys are accepted, too."
        )
    return "\n\n".join(parts)


WITH_KEYS = "train"
"""The command whose part lists the flags of all recipe keys."""


def _options(group: Any, actions: Sequence[argparse.Action], parser: argparse.ArgumentParser) -> str:
    """Return a group of options as a table with a heading."""
    title = {"positional arguments": "arguments"}.get(group.title, group.title)
    lines = [
        f"**{title[:1].upper()}{title[1:]}**" + (f": {group.description}" if group.description else ""),
        "",
    ]
    lines += ["| | |", "|---|---|"]
    formatter = parser._get_formatter()
    for action in actions:
        words = formatter._format_action_invocation(action).split(", ")
        meaning = str(action.help or "").replace("%%", "%")
        lines.append(f"| {', '.join(f'`{_cell(word)}`' for word in words)} | {_cell(meaning)} |")
    return "\n".join(lines)


def record_table(_: str | None) -> str:
    """Return tables of all values of ``record.json``, one per part, from its schema."""
    schema = json.loads((ROOT / "src/leantune/config/record/record.schema.json").read_text("utf-8"))
    parts = {"record.json": schema, **schema["$defs"]}
    return "\n\n".join(_part(name, part) for name, part in parts.items())


def _part(name: str, part: dict[str, Any]) -> str:
    required = part.get("required", [])
    heading = f"## `{name}`" if name == "record.json" else f"### {name}"
    lines = [
        heading,
        "",
        part["description"],
        "",
        "| key | value | always there | meaning |",
        "|---|---|---|---|",
    ]
    for key, value in part["properties"].items():
        there = "yes" if key in required else ""
        lines.append(f"| `{key}` | {_kind(value)} | {there} | {_cell(value.get('description', ''))} |")
    return "\n".join(lines)


def _kind(value: dict[str, Any]) -> str:
    """Describe a type in words, with a link to its part."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value:
        return " or ".join(f"`{each}`" for each in value["enum"])
    if "anyOf" in value:
        return " or ".join(_kind(each) for each in value["anyOf"])
    kind = value.get("type", "any value")
    if kind == "array" and "items" in value:
        return f"list of {_kind(value['items'])}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"by name: {_kind(value['additionalProperties'])}"
    return {"null": "null", "string": "text", "integer": "whole number", "array": "list"}.get(kind, kind)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


MADE = {"usage": usage, "record": record_table}
"""Functions that replace ``<!-- made from the code: NAME -->``."""
