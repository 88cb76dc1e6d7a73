"""What the site takes from elsewhere: the help of the commands, and MathJax from its package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
HELP = "<!-- help of every command -->"
MATHJAX = "assets/mathjax/tex-svg-full.js"

sys.path.insert(0, str(ROOT))


def help_of_commands() -> str:
    """Return the help of the command line and of each command, as Markdown."""
    from bayes_lrmf.cli import _cli

    parts: list[str] = []

    def tell(command: click.Command, parent: click.Context | None, name: str, level: int) -> None:
        context = click.Context(command, parent=parent, info_name=name, max_content_width=88)
        path = context.command_path
        parts.append(f"{'#' * level} {path}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for below in sorted(command.commands):
                tell(command.commands[below], context, below, level + 1)

    tell(_cli, None, "bayes-lrmf", 2)
    return "\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help in its place."""
    return markdown.replace(HELP, help_of_commands()) if HELP in markdown else markdown


def on_files(files: Any, config: Any) -> Any:
    """Add MathJax, one script that draws its own glyphs, to the files of the site."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    package = importlib.util.find_spec("mathjax")
    if package is None or package.origin is None:
        raise PluginError("no package mathjax: pip install '.[docs]'")
    script = Path(package.origin).parent / "static" / "mathjax" / "es5" / Path(MATHJAX).name
    files.append(File.generated(config, MATHJAX, abs_src_path=str(script)))
    return files
