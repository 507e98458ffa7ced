"""The lab that a plan or a deploy is asked for, checked and rendered, or refused."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial

from agent.cli.checked import Checked, check_folder, check_texts, directory_of
from agent.cli.host import Host
from agent.cli.output import tell, wants_colour
from agent.cli.place import placed_on
from agent.cli.rendering import render_checked
from agent.cli.views.findings import finding_lines, summary_line
from agent.deploy.store import KEY_BYTES
from agent.host.git import commit_of, lab_at
from agent.host.lab_files import load_lab
from agent.model.errors import Refused
from agent.model.finding import Severity
from agent.model.plan import Rendered


@dataclass(frozen=True, slots=True)
class Desired:
    """What to deploy, the key that its secrets were digested with, and how much to keep."""

    rendered: Rendered
    digest_key: bytes
    keep_generations: int


def desired(host: Host, lab: str | None, from_git: str | None = None) -> Desired:
    """Every file that the lab asks for. Raises Refused with all findings on stderr."""
    directory = directory_of(lab)
    if from_git is None:
        checked, commit = check_folder(directory, deploying=True), commit_of(directory)
    else:
        texts, commit = lab_at(directory, from_git)
        # Secrets are not in git: the present ones serve.
        texts |= {name: data for name, data in load_lab(directory).items() if name not in texts}
        checked = check_texts(texts, directory, deploying=True)
    if checked.lab is None or not checked.ok:
        raise _refusal(checked)
    # The first deploy makes the store, and with it this key.
    key = host.store.digest_key() or os.urandom(KEY_BYTES)
    place = partial(placed_on, host)
    rendered = render_checked(checked, key, commit, place)
    return Desired(rendered, key, checked.lab.deploy.keep_generations)


def _refusal(checked: Checked) -> Refused:
    """Tell every finding, and return the one error that sums them up."""
    errors = [f for f in checked.findings if f.severity is not Severity.NOTE]
    for line in finding_lines(errors, colour=wants_colour(sys.stderr)):
        tell(line)
    return Refused(
        f"{summary_line(checked.findings)} in {checked.directory}; nothing was touched",
        hint="correct the lab, then `labctl check`",
    )
