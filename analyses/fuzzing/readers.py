"""Every reader of the package behind one face."""

from __future__ import annotations

from analyses.fuzzing import commands, documents, tables, tools
from analyses.fuzzing.forms import Reader

__all__ = ["READERS"]

READERS: dict[str, Reader] = {
    **tables.READERS,
    **documents.READERS,
    **tools.READERS,
    **commands.READERS,
}
