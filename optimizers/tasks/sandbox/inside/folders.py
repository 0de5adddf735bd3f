"""A program's folder: measures how full it is, and deletes it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def is_full(folder: str, limits: Mapping[str, Any]) -> bool:
    """Says whether a folder holds more files or bytes than a program may have. Follows no links."""
    count = size = 0
    unseen = [folder]
    while unseen:
        with suppress(OSError), os.scandir(unseen.pop()) as entries:
            for entry in entries:
                count += 1
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    unseen.append(entry.path)
                if count > limits["files"] or size > limits["disk_bytes"]:
                    return True
    return False


def remove(folder: str) -> None:
    """Deletes a folder, however deep it is; its processes must have ended.

    It moves the content of an inner folder up before it deletes that folder, so no path is long and nothing recurses.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> os.makedirs(folder + "/deep" * 500)
    >>> remove(folder)
    >>> os.path.exists(folder)
    False
    """
    with suppress(OSError):
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    for inner in os.scandir(entry.path):
                        os.rename(inner.path, f"{folder}/{secrets.token_hex(8)}")
                    os.rmdir(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)
