"""Licences: every locked distribution is on the page, and none is unknown or strong copyleft."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analyses import licences

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)


def rows():
    lines = licences.PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| " in line][2:]


def test_the_page_names_every_locked_distribution():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = [line.split()[0] for line in lock.splitlines() if re.match(r"\w.*==", line)]
    assert [f"{name}=={version}" for name, version, *_ in rows()] == sorted(
        pinned, key=lambda pin: pin.split("==")[0]
    )
    assert len(pinned) > 100


def test_the_page_is_what_the_command_writes():
    assert licences.page() == licences.PAGE.read_text(encoding="utf-8")


def test_copyleft_is_what_the_page_says():
    text = licences.PAGE.read_text(encoding="utf-8").split("| distribution")[0]
    by_file = [name for name, _, licence, _ in rows() if "MPL" in licence]
    assert by_file == re.findall(r"`([\w-]+)`", text.split("own files only:")[1])
    for name, _, licence, _ in rows():
        assert licence, name
        assert not re.search(r"GPL|EUPL|CDDL|SSPL|CC-BY|OSL|unknown", licence, re.I), name


def test_what_a_fit_needs_is_told_from_what_tests_need():
    needed = {name: what for name, *_, what in rows()}
    assert {needed[name] for name in ("numpyro", "jaxlib", "numpy", "click", "h5py")} == {"a fit"}
    assert {needed[name] for name in ("inspect-ai", "aiohttp", "optax")} == {"an extra"}
    assert {needed[name] for name in ("pytest", "mypy", "mkdocs", "girth")} == {"development"}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"License-Expression": "MIT AND Zlib"}, "MIT AND Zlib"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        (
            {"License": "a long text", "Classifier": ["License :: OSI Approved :: MIT License"]},
            "MIT",
        ),
    ],
)
def test_licences_are_read_from_metadata(about, expected):
    assert licences.licence("some", about) == expected


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({}, "none stated"),
        ({"License-Expression": "MIT AND GPL-3.0-only"}, r"\(GPL-3.0-only\)"),
        ({"License": "BSD", "Classifier": ["License :: OSI Approved :: BSD License"]}, "some: "),
        ({"Classifier": ["License :: OSI Approved :: GNU General Public License v3"]}, "not known"),
    ],
)
def test_unknown_licences_are_refused(about, says):
    with pytest.raises(SystemExit, match=says):
        licences.licence("some", about)
