"""What can go wrong on the way to the Hub, in one line each."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id

from .utils import one_line, sentence

PROBE_SECONDS = 3.0  # for an answer of any kind
_LOGIN = "Run `hf auth login`, or set the environment variable HF_TOKEN"


def _is_of_the_network(error: BaseException | None) -> bool:
    """An error of the HTTP client, whichever huggingface_hub uses: no connection, or no answer in time."""
    return isinstance(error, (OSError, OfflineModeIsEnabled)) or type(error).__module__.startswith("httpx")


def check_network() -> None:
    """
    Ask the Hub for any answer, once: the libraries themselves try again for half a minute.

    Raises:
        ConnectionError: if there is none within a few seconds.
    """
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set, so that nothing asks the Hub. Unset it.")
    found: list[BaseException | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
            found.append(None)
        except Exception as error:
            found.append(error)

    # in a thread: no timeout of the HTTP client counts the time that the look-up of a host's name takes
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    error = found[0] if found else TimeoutError("the name of the host was not found in time")
    if error is None:
        return
    if not _is_of_the_network(error):
        raise error
    raise ConnectionError(
        f"the Hub at {constants.ENDPOINT} does not answer: {sentence(error)} Check the network, and the "
        "environment variables HF_ENDPOINT and HTTPS_PROXY."
    )


def check_hub(name: str, what: str = "") -> None:
    """
    [`check_network`] before something is read from the Hub: for no folder or path, and not where HF_HUB_OFFLINE says
    to take it from the cache.

    Args:
        name (`str`): of a model or data set.
        what (`str`, *optional*): what the error calls it, by default its name in quotes.

    Raises:
        ConnectionError: if the Hub does not answer.
    """
    if constants.HF_HUB_OFFLINE or os.path.isdir(name) or not is_repo_id(name):
        return
    try:
        check_network()
    except ConnectionError as error:
        cache = "If it was loaded before, HF_HUB_OFFLINE=1 takes it from the cache."
        raise ConnectionError(f"{what or repr(name)} is no file or folder here, and {error} {cache}") from None


def is_repo_id(name: str) -> bool:
    """Whether the Hub can have a repository of that name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_repo_id(repo_id: str) -> str:
    """
    A repository's name as the Hub takes it.

    Raises:
        ValueError: for any other.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`repo_id` must be a name or user/name, got {repo_id!r:.120}: {one_line(error)}") from None
    return repo_id


def check_token(token: str | bool | None) -> None:
    """
    Raises:
        ValueError: if nobody is logged in.
    """
    if not isinstance(token, str) and get_token() is None:
        raise ValueError(f"there is no token for the Hub. {_LOGIN} to one with write access.")


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns errors of the Hub inside into ValueErrors of one line that say what to do."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError(f"there is no token for the Hub. {_LOGIN} to one with write access.") from None
    except HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        said = sentence(error.server_message or error)
        if status == 401 and not isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)):
            raise ValueError(f"the Hub does not take the token: {said} {_LOGIN} to a valid one.") from None
        if status == 403:
            raise ValueError(
                f"no permission to write to '{repo_id}': {said} Use a token with write access, or a repository of "
                "your own."
            ) from None
        raise ValueError(f"the Hub refused '{repo_id}': {said}") from None
    except ConnectionError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):
            raise
        raise ConnectionError(
            f"the connection to the Hub was lost: {sentence(error)} Nothing is half there: push again."
        ) from None


__all__ = ["check_hub", "check_network", "check_repo_id", "check_token", "hub_errors", "is_repo_id"]
