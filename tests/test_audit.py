"""The audit: what advisories say is told and fails, and where there are none that is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from analyses import audit

ROOT = Path(__file__).resolve().parent.parent
FLAW = {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}


@pytest.fixture
def locks(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text("# by a tool\nabc==1.0 \\\n    --hash=sha256:00\nxyz==2.0 ; a == 'b' \\\n")
    return (path,)


@pytest.fixture
def pip_audit(tmp_path):
    """Return what writes a stand-in, which answers of the distributions that a file names."""

    def written(known, *, code=0, said=""):
        path = tmp_path / "pip-audit"
        path.write_text(
            f"#!{sys.executable}\n"
            "import json, re, sys\n"
            f"known, said = {known!r}, {said!r}\n"
            "names = re.findall('^[a-z]+(?===)', open(sys.argv[-1]).read(), re.M)\n"
            "found = [known[name] | {'name': name} for name in names if not said]\n"
            "print(said or json.dumps({'dependencies': found}))\n"
            "print(said, file=sys.stderr)\n"
            f"sys.exit({code})\n"
        )
        path.chmod(0o755)
        return str(path)

    return written


def clean(version, **more):
    return {"version": version, "vulns": []} | more


def test_no_advisory_passes(pip_audit, locks, capsys):
    assert audit.main(pip_audit({"abc": clean("1.0"), "xyz": clean("2.0")}), locks) == 0
    assert capsys.readouterr().out.endswith("requirements.lock: 2 audited, 0 advisories\n")


def test_an_advisory_is_told_and_fails_unless_accepted(pip_audit, locks, capsys, monkeypatch):
    known = {"abc": clean("1.0"), "xyz": clean("2.0", vulns=[FLAW])}
    assert audit.main(pip_audit(known, code=1), locks) == 1
    assert "xyz 2.0: PYSEC-1, fixed in 2.1\n" in capsys.readouterr().out
    monkeypatch.setitem(audit.ACCEPTED, "PYSEC-1", "we do not call it")
    assert audit.main(pip_audit(known, code=1), locks) == 0
    assert "accepted: we do not call it" in capsys.readouterr().out


def test_distributions_that_nobody_knows_are_named(pip_audit, locks, capsys):
    known = {"abc": clean("1.0"), "xyz": {"skip_reason": "not found on PyPI"}}
    assert audit.main(pip_audit(known), locks) == 0
    out = capsys.readouterr().out
    assert "1 audited" in out
    assert "not audited: xyz" in out


@pytest.mark.parametrize(
    "answer",
    [
        {"known": {"abc": {"skip_reason": "abc not found on PyPI"}}},
        {"known": {}, "code": 1, "said": "Traceback\nConnectionError: abc not found"},
    ],
)
def test_where_no_service_answers_that_is_said(pip_audit, locks, capsys, answer):
    assert audit.main(pip_audit(**answer), locks) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("SKIPPED: no vulnerability audit")
    assert "abc not found" in line


def test_every_lock_file_is_audited():
    assert {path.name for path in audit.LOCKS} == {path.name for path in ROOT.glob("*.lock")}
    assert len(audit.LOCKS) >= 5


def test_what_was_found_before_the_service_fell_silent_still_fails(pip_audit, locks, tmp_path):
    silent = tmp_path / "requirements-more.lock"
    silent.write_text("nobody==1.0\n")
    known = {"abc": clean("1.0", vulns=[FLAW]), "xyz": clean("2.0")}
    assert audit.main(pip_audit(known), (*locks, silent)) == 1
