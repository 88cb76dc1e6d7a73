"""Known vulnerabilities of the distributions that the lock files name, by pip-audit.

It asks PyPI. Where PyPI's advisories cannot be had, as behind an index that serves packages only,
it says that nothing was audited and passes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCKS = tuple(sorted(Path(__file__).parent.parent.glob("requirements*.lock")))
# Identifier of an advisory: why it does not matter here.
ACCEPTED: dict[str, str] = {}


class NotAuditedError(Exception):
    """No advisories can be had here."""


def advisories(pip_audit: str, requirements: Path) -> list[dict[str, Any]]:
    """Return what pip-audit knows of each distribution of a file of pinned requirements."""
    command = [pip_audit, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run(
        [*command, "--format", "json", "--requirement", str(requirements)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise NotAuditedError(said[-1]) from None


def reachable(pip_audit: str, lock: Path) -> None:
    """Raise `NotAuditedError` unless PyPI tells of the first distribution of a lock file."""
    pins = re.findall(r"^[a-z0-9][a-z0-9._-]*==[^\s;]+", lock.read_text(encoding="utf-8"), re.M)
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.txt"
        one.write_text(pins[0] + "\n", encoding="utf-8")
        (found,) = advisories(pip_audit, one)
    if "skip_reason" in found:
        raise NotAuditedError(found["skip_reason"])


def main(pip_audit: str, locks: tuple[Path, ...] = LOCKS) -> int:
    """Audit every lock file; print what is found; return 1 if it is not accepted."""
    bad = 0
    try:
        reachable(pip_audit, locks[0])
        for lock in locks:
            known = advisories(pip_audit, lock)
            unknown = [one["name"] for one in known if "skip_reason" in one]
            found = [(one, flaw) for one in known for flaw in one.get("vulns", ())]
            print(f"{lock.name}: {len(known) - len(unknown)} audited, {len(found)} advisories")
            if unknown:
                print(f"  not audited: {', '.join(unknown)}")
            for one, flaw in found:
                why = ACCEPTED.get(flaw["id"])
                bad += why is None
                fixed = ", ".join(flaw["fix_versions"]) or "no release"
                print(
                    f"  {one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}"
                    + (f"; accepted: {why}" if why else "")
                )
    except NotAuditedError as reason:
        print(f"SKIPPED: no vulnerability audit, as PyPI's advisories cannot be had here: {reason}")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
