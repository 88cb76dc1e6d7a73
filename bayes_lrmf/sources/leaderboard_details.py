"""Details of the Open LLM Leaderboards v1 and v2: what each model did on each question."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import counted, named
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources import lighteval, lighteval_files, lm_eval, lm_eval_files
from bayes_lrmf.sources.assembly import assembled
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.lm_eval_files import Samples
from bayes_lrmf.sources.metric_choice import Metric
from bayes_lrmf.sources.places import files_in, in_words

__all__ = ["read_leaderboard_details"]

_FIX = "give a dataset of details as downloaded from the Hub"
# The leaderboard names the commit it ran, which is that of the main branch on the day.
_AT_COMMIT = re.compile(r"@[0-9a-f]{40}$")
# The Hub writes <model>__<task>/<date of the run, or latest>/0000.parquet beside v2 samples.
_CONFIG = re.compile(r"(?P<model>.+)__(?P<task>leaderboard_.+)")
_SPLIT = re.compile(
    r"(?:partial-)?(?P<day>\d{4}_\d\d_\d\d)T(?P<time>\d\d_\d\d_\d\d(?:\.\d+)?)|(?:partial-)?latest"
)


def read_leaderboard_details(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    metric: Metric = None,
    filter_name: str | None = None,
    aliases: Any = None,
) -> Imported:
    """Read the details that the Open LLM Leaderboards keep of each model, as downloaded.

    Those of v2, ``open-llm-leaderboard/<org>__<model>-details``, are samples as
    lm-evaluation-harness wrote them, or the Parquet that the Hub made of them: a document is an
    item, named by its ``doc_id``. Those of v1, ``details_<org>__<model>``, are Parquet with metrics
    in one of three layouts: a question is an item, named by its hash, as these files hold no key
    and their rows are shuffled. A model has its name on the Hub, without the commit.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, searched to the bottom, or files; v1 and v2 may stand together.
    metric : str or mapping, optional
        A metric, or task -> metric. By default the first that a task has of acc_norm, acc,
        exact_match and what else `METRICS` lists; acc on the MMLU of v1.
    filter_name : str, optional
        By default none, then the first of a task; v1 has no filters.
    aliases : path, DataFrame or mapping, optional
        Other names of models, as `read_lineage` takes them.

    Returns
    -------
    Imported
        With notes on what was chosen and what was passed over.

    Raises
    ------
    InputError
        If a file is missing or broken, a value of the metric is not from 0 to 1, nothing is
        found, or no task has the metric or filter.
    """
    names = read_aliases(aliases)
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = files_in(places, (".json", ".jsonl", ".parquet"))
    converted = _converted(files)
    files = {file: is_named for file, is_named in files.items() if not _is_converted(file)}
    samples, results, strange = lm_eval_files.searched(files)
    taken = {s.path for s in samples} | {r.path for r in results}
    details, first_results = lighteval_files.searched(
        {file: is_named for file, is_named in files.items() if file not in taken}
    )
    samples = [replace(s, model=_AT_COMMIT.sub("", s.model)) for s in (*samples, *converted)]
    results = [replace(r, model=_AT_COMMIT.sub("", r.model)) for r in results]
    if not (samples or results or details or first_results):
        raise InputError("no details of the leaderboard", where=in_words(places), fix=_FIX)
    parts = [
        *lm_eval.parts_of(samples, results),
        *lighteval.parts_of(details, first_results),
    ]
    notes = [f"{counted(strange, 'file')} of unknown tasks passed over: {named(strange)}"]
    return assembled(
        parts,
        names=names,
        metric=metric,
        filter_name=filter_name,
        priority=lighteval.default_metrics,
        notes=notes if strange else (),
        nothing=InputError(
            "neither details nor results with a number of samples",
            where=in_words(places),
            fix=_FIX,
        ),
    )


def _is_converted(file: Path) -> bool:
    config, split = file.absolute().parts[-3:-1]
    return (
        file.suffix == ".parquet"
        and bool(_SPLIT.fullmatch(split))
        and bool(_CONFIG.fullmatch(config))
    )


def _converted(files: Iterable[Path]) -> list[Samples]:
    """Return the samples that the Hub turned into Parquet, the latest of them once."""
    by_config: dict[Path, list[Samples]] = defaultdict(list)
    for file in filter(_is_converted, files):
        folder = file.absolute().parent
        config, split = _CONFIG.fullmatch(folder.parent.name), _SPLIT.fullmatch(folder.name)
        assert config is not None
        assert split is not None
        date = f"{split['day']}T{split['time']}".replace("_", "-") if split["day"] else ""
        when = lm_eval_files.moment(date) if date else 0.0
        model = config["model"].replace("__", "/")
        by_config[folder.parent].append(Samples(file, model, config["task"], when, None))
    # The split "latest" repeats the last of the others.
    dated = ([one for one in group if one.when] or group for group in by_config.values())
    return [one for group in dated for one in group]
