"""The README's commands really run, and its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\$ (memsparse ask .+)\n((?:(?!\$ |```).*\n)+)", README, flags=re.MULTILINE)


def test_there_are_questions_to_run() -> None:
    assert len(SHOWN) >= 2


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_questions_are_answered_as_shown(command: str, printed: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "memsparse"
    done = subprocess.run(
        [sys.executable, "-m", "memsparse", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The last line shown holds timings.
    expected = [line for line in printed.rstrip().splitlines() if line.strip()][:-1]
    got = [line for line in done.stdout.splitlines() if line.strip()]
    assert got[: len(expected)] == expected


def test_the_scripts_named_exist_and_run() -> None:
    named = set(re.findall(r"\bscripts/[\w-]+", README))
    assert {"scripts/demo", "scripts/test"} <= named
    assert [name for name in sorted(named) if not os.access(ROOT / name, os.X_OK)] == []


def test_the_demo_asks_the_questions_shown() -> None:
    demo = (ROOT / "scripts" / "demo").read_text(encoding="utf-8")
    questions = re.findall(r'^(?:one|two)_hop="(.+)"$', demo, flags=re.MULTILINE)
    assert len(questions) == 2
    assert all(question in README for question in questions)


def test_links_and_paths_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
