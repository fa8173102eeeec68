"""Downloads from the Hugging Face Hub. Does not need torch, so a failed download is reported immediately."""

import logging
from pathlib import Path

from cogvx_exp.core.errors import UserError

logger = logging.getLogger(__name__)


def fetch(repo: str, revision: str | None, *, kind: str, setting: str, patterns: list[str] | None = None) -> Path:
    """The local folder of a repository; downloads it if it is not in the Hugging Face cache.

    Args:
        repo: owner/name.
        revision: branch, tag or commit.
        kind: model or dataset.
        setting: the setting that gives it, for messages.
        patterns: files to fetch; None: all.

    Raises:
        UserError: it is not in the cache and cannot be fetched.
    """
    # Imported here: checking settings must not wait for it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=patterns)
        logger.info("%s %s (%s) is in %s", kind, repo, revision or "main", folder)
        return Path(folder)
    # Only the first line: some of these messages include whole pages.
    except Exception as error:  # the hub client raises errors of several libraries
        # The hub client's own message for this is a paragraph about its cache.
        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "the Hub cannot be reached" if offline else str(error).partition("\n")[0][:160] or type(error).__name__
        raise UserError(
            f"{setting}={repo} is not in the Hugging Face cache and could not be fetched ({reason}); "
            f"set {setting}=FOLDER to a local copy"
        ) from None
