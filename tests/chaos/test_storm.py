"""A storm on each database: whatever is killed, nothing is lost, nothing is out of order.

``make chaos MINUTES=60 SEED=42`` lets it rage for longer; see docs/explanation/proof.md.
"""

import os
import random
import re
import sys

import pytest
from checker import check, repetitions
from storm import HANDLERS, QUIET_SECONDS, Storm, schedule

SECONDS = float(os.environ.get("CHAOS_MINUTES", "0.25")) * 60
SEED = os.environ.get("CHAOS_SEED", "1")

#: Of so many problems nobody wants to see more.
SHOWN = 40

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(SECONDS * 3 + QUIET_SECONDS + 120)]


def say(*lines):
    """For who watches a long storm, and for whom it failed."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


async def test_a_storm_loses_nothing_makes_nothing_up_and_changes_no_order(database_kind, tmp_path):
    seed = SEED if SEED != "random" else str(random.SystemRandom().randrange(10**6))
    say(f"{database_kind}, MINUTES={SECONDS / 60:g} SEED={seed}")
    say(*schedule(seed, SECONDS, database_kind))
    async with Storm(tmp_path, database_kind, seed) as storm:
        record = await storm.rage(SECONDS)
    heard = sum(map(len, record.heard.values()))
    say(f"{len(record.writes)} changes, {heard} requests, {repetitions(record)} repetitions")
    problems = storm.complaints + check(record)
    assert problems == [], "\n".join(["", *problems[:SHOWN], f"{len(problems)} in all"])
    faults = re.findall(r".* ERROR (?!sqlalchemy\.pool).*", storm.messages.read_text())
    assert faults == [], "a worker met what it does not know"
    committed = sum(write.fate == "committed" for write in record.writes)
    assert committed > 50, "nothing much happened"
    assert heard >= committed * 2 * len(HANDLERS)
    assert {fault.kind for fault in record.faults} == {"kill", "freeze", "database"}


def test_a_storm_can_be_had_again():
    assert schedule("42", 60, "postgresql") == schedule("42", 60, "postgresql")
    assert schedule("42", 60, "postgresql") != schedule("43", 60, "postgresql")
