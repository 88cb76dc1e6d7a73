"""What tests of tables of responses share."""

from __future__ import annotations

import pytest
from response_tables import TABLES

from bayes_lrmf.responses import Responses, read_responses


@pytest.fixture
def read(tmp_path):
    """Return a function that writes text to a CSV and reads it as responses."""

    def write_and_read(text: str, name: str = "r.csv", **options) -> Responses:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return read_responses(path, **options)

    return write_and_read


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]()
