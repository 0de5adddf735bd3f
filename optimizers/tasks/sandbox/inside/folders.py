"""A program's folder where it has no file system of its own: how full it is, and how to be rid of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def is_full(folder: str, limits: Mapping[str, Any]) -> bool:
    """Whether there are more files or bytes below a folder than a program may have. Links are not followed."""
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
    """Delete a folder, however deep it is; its processes must have ended.

    What is below a folder in it is moved up before that one is deleted, so no path is long and nothing recurses.

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
