"""What the Hub says of one model: asked politely, kept on disk."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bayes_lrmf.checks import InputError
from bayes_lrmf.files import written_whole

if TYPE_CHECKING:
    from bayes_lrmf.progress import Progress

__all__ = ["Card", "CardReader", "parents_of_card"]

_RELATIONS = ("finetune", "merge", "adapter", "quantized")
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_ADDRESS = re.compile(r"^https?://[^/]+/(?=[^/]+/[^/]+/?$)")
_TRIES = 6
_LONGEST_WAIT = 300.0
_PATIENCE = 30.0


@dataclass(frozen=True)
class Card:
    """What is known of a model.

    Attributes
    ----------
    name : str
        As the Hub calls it now.
    parents : tuple of (str, str)
        Names and relations of its base models.
    absence : str
        Why nothing is known, if so.
    strange : tuple of str
        Base models that are no names.
    """

    name: str
    parents: tuple[tuple[str, str], ...] = ()
    absence: str = ""
    strange: tuple[str, ...] = ()


class CardReader:
    """Read cards from a folder of earlier answers, or else from the Hub.

    Parameters
    ----------
    token, endpoint, cache, offline
        As for `read_hub_lineage`.

    Raises
    ------
    InputError
        If huggingface_hub is missing, or there is no cache to answer from, or it is no folder.
    """

    def __init__(
        self,
        *,
        token: str | bool | None = None,
        endpoint: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        offline: bool = False,
    ) -> None:
        self._folder = None if cache is None else Path(cache)
        self._api: Any = None
        if offline:
            if self._folder is None or not self._folder.is_dir():
                raise InputError(
                    "there is no cache to answer from",
                    where=None if cache is None else str(cache),
                    fix="name the folder of a run that was not offline",
                )
            return
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise InputError(
                "huggingface_hub is not installed", fix="pip install 'bayes-lrmf[hub]'"
            ) from error
        self._api = HfApi(endpoint=endpoint, token=token)
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"the cache cannot be made ({error.strerror})",
                    where=str(cache),
                    fix="name another folder",
                ) from error

    def read(self, name: str, progress: Progress | None = None) -> Card:
        """Return the card of a model.

        Raises
        ------
        InputError
            If the Hub cannot be reached, refuses the token, or keeps refusing.
        """
        if not _NAME.fullmatch(name):
            return Card(name, absence="no name that the Hub could know")
        known = self._known(name)
        if known is not None:
            return known
        if self._api is None:
            return Card(name, absence="not in the cache")
        card = self._asked(name, progress)
        if self._folder is not None:
            with written_whole(self._file(name)) as temporary:
                temporary.write_text(
                    json.dumps(
                        {
                            "asked": name,
                            "name": card.name,
                            "parents": card.parents,
                            "absence": card.absence,
                            "strange": card.strange,
                        }
                    ),
                    encoding="utf-8",
                )
        return card

    def _file(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{quote(name, safe='')}.json"

    def _known(self, name: str) -> Card | None:
        """Return the card on disk; None if there is none, or it is another's or damaged."""
        if self._folder is None:
            return None
        try:
            kept = json.loads(self._file(name).read_text(encoding="utf-8"))
            if kept["asked"] != name:
                # Folders that ignore case take two names for one.
                return None
            parents = tuple((str(parent), str(relation)) for parent, relation in kept["parents"])
            return Card(
                str(kept["name"]), parents, str(kept["absence"]), tuple(map(str, kept["strange"]))
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _asked(self, name: str, progress: Progress | None) -> Card:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        problem = ""
        for attempt in range(_TRIES):
            wait = min(2.0**attempt, _LONGEST_WAIT)
            try:
                return _card_of(name, self._api.model_info(name, timeout=_PATIENCE))
            except HFValidationError:
                return Card(name, absence="no name that the Hub could know")
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status == 401 and "nvalid credentials" in str(error):
                    raise InputError(
                        "the Hub refuses the access token", fix="log in anew, or drop the token"
                    ) from error
                if status in (401, 404):
                    return Card(name, absence="not found (deleted, private or never there)")
                if status in (403, 451):
                    return Card(name, absence="not to be seen with this token")
                if status != 429 and status < 500:
                    raise InputError(
                        f"the Hub answers {status}", where=name, fix="check the name"
                    ) from error
                problem = f"the Hub answers {status}"
                if status == 429:
                    wait = _wait_asked_for(error.response.headers, wait)
            except Exception as error:  # the client's library for HTTP differs by its version
                problem = f"the Hub cannot be reached ({type(error).__name__})"
            if attempt < _TRIES - 1:
                if progress is not None and (wait > 2 or attempt):
                    progress.say(f"{problem}; waiting {wait:.0f} s")
                time.sleep(wait)
        raise InputError(
            problem,
            where=name,
            fix="try again later; answers so far are kept"
            if self._folder is not None
            else "try again later, with a cache to keep answers",
        )


def _wait_asked_for(headers: Any, default: float) -> float:
    """Return how long the Hub wants to be left alone, within a limit."""
    given = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After") or "") or re.search(
        r"\bt\s*=\s*(\d+)", headers.get("RateLimit") or ""
    )
    # A second more, as the Hub counts in whole ones.
    return min(float(given[1]) + 1 if given else default, _LONGEST_WAIT)


def _card_of(name: str, info: Any) -> Card:
    data = getattr(info, "card_data", None)
    data = {} if data is None else data.to_dict()
    parents, strange = parents_of_card(getattr(info, "tags", None) or [], data)
    return Card(str(getattr(info, "id", None) or name), parents, strange=strange)


def parents_of_card(
    tags: Iterable[str], data: dict[str, Any]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return base models with relations, and base models that are no names.

    Parameters
    ----------
    tags : iterable of str
        Those of the Hub, such as ``base_model:owner/name`` and ``base_model:merge:owner/name``.
    data : dict
        The head of the card, for what tags do not say: ``base_model``, ``base_model_relation``.
    """
    related: dict[str, str] = {}
    bare: list[str] = []
    for tag in tags:
        word, _, rest = str(tag).partition(":")
        if word != "base_model":
            continue
        relation, colon, name = rest.partition(":")
        if colon and relation in _RELATIONS:
            related.setdefault(name.strip(), relation)
        else:
            bare.append(rest)
    given = data.get("base_model") or []
    on_card = [given] if isinstance(given, str) else list(given) if isinstance(given, list) else []
    named = [*related, *bare] or [str(name) for name in on_card if name]
    cleaned = {name: _ADDRESS.sub("", name.strip()).rstrip("/") for name in dict.fromkeys(named)}
    valid = {raw: name for raw, name in cleaned.items() if _NAME.fullmatch(name)}
    stated = str(data.get("base_model_relation") or "").strip().casefold()
    if stated not in _RELATIONS:
        stated = "merge" if len(set(valid.values())) > 1 else "finetune"
    found: dict[str, str] = {}
    for raw, name in valid.items():
        found.setdefault(name, related.get(raw, stated))
    return tuple(found.items()), tuple(raw for raw in cleaned if raw not in valid)
