"""Where this user's things are."""

from __future__ import annotations

import os
import pwd

from agent.host.session import host_paths
from agent.model.host import HostPaths


def home() -> str:
    """The user's home: `$HOME`, else the password file's."""
    return os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir


def paths_of_host() -> HostPaths:
    return host_paths(home(), os.environ.get("XDG_RUNTIME_DIR"))
