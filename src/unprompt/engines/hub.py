"""The Hugging Face hub: whether it can be reached, asked once and shortly, and what its refusals
mean. What loads from it would ask again and again for a minute.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from unprompt.messages import UserError, say
from unprompt.store.files import first_line

_PATIENCE = 8.0
"""Seconds that the hub may take to answer."""
_REMEMBERED = 60.0
"""Seconds after which it is asked anew."""
_BROKEN = (500, 502, 503, 504)

_known: dict[str, tuple[float, str]] = {}
"""Address -> when it was asked, and what was wrong."""


@contextlib.contextmanager
def reading(kind: str, name: str, where: str, instead: str) -> Iterator[None]:
    """Load something of the hub by its id; where the hub can't be reached, from its cache alone,
    and say so. Folders that are here are none of its business.

    Args:
        kind: "model" or "data set".
        instead: What the recipe may give in place of an id.

    Raises:
        UserError: The hub can't be reached, and its cache lacks the files; or the hub refuses them.
            Other errors come out as they are.
    """
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        yield
        return
    if Path(name).exists():
        yield
        return
    chosen = constants.HF_HUB_OFFLINE
    trouble = "" if chosen else _trouble(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = chosen or bool(trouble)
    try:
        yield
    except Exception as error:
        what, fix = _refusal(error, kind, name, constants.ENDPOINT)
        if trouble:
            what = f"the hub can't be reached ({constants.ENDPOINT}: {trouble}), and its cache"
            what += f" lacks this {kind}"
            fix = f"check the network and HF_ENDPOINT, or give {instead}"
        elif chosen:
            what = f"HF_HUB_OFFLINE is set, and the hub's cache lacks this {kind}"
            fix = f"unset HF_HUB_OFFLINE, or give {instead}"
        if not what:
            raise
        raise UserError(what, where=where, fix=fix) from None
    finally:
        constants.HF_HUB_OFFLINE = chosen
    if trouble:
        _note(f"note: the hub can't be reached ({trouble}): {name} is the one in its cache")


@functools.cache
def _note(line: str) -> None:
    """Once a process."""
    say(line)


def _refusal(error: Exception, kind: str, name: str, endpoint: str) -> tuple[str, str]:
    """What the hub said, and what to do; nothing, where it is not what failed."""
    from huggingface_hub import errors, get_token

    seen: BaseException | None = error
    while seen and not isinstance(seen, errors.HfHubHTTPError):
        seen = seen.__cause__ or seen.__context__
    at = f"{endpoint}/{'datasets/' if kind == 'data set' else ''}{name}"
    # datasets leaves only words of what it was told
    words = str(error) if type(error).__name__ == "DatasetNotFoundError" else ""
    if isinstance(seen, errors.GatedRepoError) or "gated dataset" in words:
        return (
            f"its owner lets only some people read this {kind} (it is gated)",
            f"ask for access at {at}, then run `hf auth login` or set HF_TOKEN",
        )
    if isinstance(seen, errors.RevisionNotFoundError) or words.startswith("Revision"):
        return f"this {kind} has no such revision on the hub", f"look at {at}, and mend revision"
    status = seen.response.status_code if isinstance(seen, errors.HfHubHTTPError) else 0
    # who shows no token isn't told which of the two it is
    unseen = status == 401 and get_token() is None
    unseen = unseen or isinstance(seen, errors.RepositoryNotFoundError)
    if unseen or "doesn't exist on the Hub" in words:
        return (
            f"there is no such {kind} on the hub, or it is private",
            "check the id (owner/name), or give a folder; for a private one run `hf auth login`",
        )
    if not status or isinstance(seen, errors.EntryNotFoundError):
        return "", ""
    if status in (401, 403):
        return f"the hub refuses the token ({status})", "run `hf auth login`, or mend HF_TOKEN"
    return f"the hub answers with status {status}", "try again later"


def _trouble(endpoint: str) -> str:
    """Why the hub can't be reached; nothing if it can."""
    asked, trouble = _known.get(endpoint, (-_REMEMBERED, ""))
    if time.monotonic() - asked > _REMEMBERED:
        heard: list[str] = []
        # a name server may be silent for longer than any limit that a request has
        knocking = threading.Thread(target=lambda: heard.append(_knock(endpoint)), daemon=True)
        knocking.start()
        knocking.join(_PATIENCE)
        trouble = heard[0] if heard else f"no answer within {_PATIENCE:g} s"
        _known[endpoint] = time.monotonic(), trouble
    return trouble


def _knock(endpoint: str) -> str:
    from huggingface_hub import get_session

    try:
        reply = get_session().head(endpoint, timeout=_PATIENCE, follow_redirects=False)
    except Exception as error:
        return first_line(error)
    return f"status {reply.status_code}" if reply.status_code in _BROKEN else ""
