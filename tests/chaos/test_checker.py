"""The checker finds each guarantee broken in a record that was doctored, and nothing else."""

from dataclasses import replace

import pytest
from checker import Fault, Reception, Record, Write, check, events_of, repetitions

VALUES = ["7-0", "7-1-a", "7-2-b", "7-3-c"]


def reception(i_event, at, *, i_account=7, says=None, accepted=True):
    number, second = divmod(i_event - 1, 2)
    says = says or events_of(number, VALUES[number + 1])[second]
    return Reception(at, at + 0.5, i_account, i_event, says, f"body {i_event}", accepted)


def good():
    """Three changes of one account, six events, heard by two receivers one per second."""
    heard = [reception(n, float(n)) for n in range(1, 7)]
    return Record(
        first={7: "7-0"},
        final={7: "7-3-c"},
        writes=[
            Write(7, "7-0", "7-1-a", "committed"),
            Write(7, "7-1-a", "7-2-undone", "undone"),
            Write(7, "7-1-a", "7-2-b", "unknown"),
            Write(7, "7-2-b", "7-3-x", "unknown"),
            Write(7, "7-2-b", "7-3-c", "committed"),
        ],
        heard={"A": heard, "B": list(heard)},
        verdicts=[(n, handler, "finished") for n in range(1, 7) for handler in "AB"],
        left={"Event_Queue": 0, "Event_Notifications": 0},
    )


def doctored(change):
    """What the checker says when the record of one receiver is changed."""
    record = good()
    change(record.heard["B"])
    return check(record)


def guarantees(problems):
    return {problem.split(":")[0] for problem in problems}


def test_a_record_in_which_all_is_well_has_no_problems():
    assert check(good()) == []
    assert repetitions(good()) == 0


def test_an_event_that_never_came_is_lost():
    assert "lost" in guarantees(doctored(lambda heard: heard.pop(2)))


def test_an_event_that_came_and_was_never_taken_is_lost():
    said = doctored(lambda heard: heard.insert(5, replace(heard.pop(5), accepted=False)))
    assert said == ["lost: 6 was never taken [B, account 7]"]


def test_a_yes_that_came_too_late_may_have_been_heard_but_not_before_it_was_said():
    def late(heard, until):
        heard[4] = replace(heard[4], accepted=False, late=True, until=until)

    assert doctored(lambda heard: late(heard, 5.9)) == []
    assert guarantees(doctored(lambda heard: late(heard, 6.5))) == {"early"}


def test_an_account_of_which_nothing_came_has_lost_all():
    assert len([p for p in doctored(lambda heard: heard.clear()) if p.startswith("lost")]) == 5


def test_what_was_rolled_back_is_made_up():
    says = ("Account/ID/Changed", "7-2-undone")
    assert "made up" in guarantees(doctored(lambda h: h.append(reception(9, 9.0, says=says))))


def test_what_was_never_committed_is_made_up_though_nobody_knew():
    says = ("Account/ID/Changed", "7-3-x")
    assert "made up" in guarantees(doctored(lambda h: h.append(reception(9, 9.0, says=says))))


def test_an_event_that_comes_under_a_second_number_is_made_up():
    says = ("Account/ID/Changed", "7-3-c")
    assert "made up" in guarantees(doctored(lambda h: h.append(reception(9, 9.0, says=says))))


def test_an_account_that_nobody_changed_has_no_events():
    assert "made up" in guarantees(doctored(lambda h: h.append(reception(6, 9.0, i_account=8))))


def test_an_event_before_its_forerunner_is_overtaken():
    def swap(heard):
        heard[1], heard[2] = replace(heard[2], at=2.0, until=2.5), replace(heard[1], at=3.0)

    assert "overtaken" in guarantees(doctored(swap))


def test_a_higher_number_for_the_older_change_is_overtaken():
    def renumber(heard):
        heard[0], heard[1] = replace(heard[0], i_event=2), replace(heard[1], i_event=1)

    assert "overtaken" in guarantees(doctored(renumber))


def test_an_event_that_comes_while_its_forerunner_is_under_way_is_early():
    said = doctored(lambda heard: heard.insert(1, replace(heard.pop(1), at=1.4)))
    assert said == ["early: 2 came before 1 was taken [B, account 7]"]


def test_an_event_that_comes_after_its_forerunner_was_refused_is_early():
    def refuse(heard):
        heard[0] = replace(heard[0], accepted=False)
        heard.append(reception(1, 9.0))

    assert "early" in guarantees(doctored(refuse))


def test_what_was_taken_and_comes_again_without_a_fault_is_repeated():
    said = doctored(lambda heard: heard.append(reception(6, 7.0)))
    assert said == ["repeated: 6 was taken, and came again without need [B, account 7]"]


@pytest.mark.parametrize("kind", ["kill", "freeze", "database"])
def test_what_was_taken_may_come_again_after_a_fault(kind):
    record = good()
    record.heard["B"].append(reception(6, 7.0))
    record.faults = [Fault(kind, 6.6, 6.7)]
    assert check(record) == []
    assert repetitions(record) == 1


def test_a_fault_long_after_the_answer_explains_no_repetition():
    record = good()
    record.heard["B"].append(reception(6, 20.0))
    record.faults = [Fault("kill", 19.0, 19.5)]
    assert guarantees(check(record)) == {"repeated"}


def test_a_fault_that_comes_after_the_repetition_explains_nothing():
    record = good()
    record.heard["B"].append(reception(6, 7.0))
    record.faults = [Fault("kill", 7.5, 8.0)]
    assert guarantees(check(record)) == {"repeated"}


def test_what_was_not_taken_comes_again_without_any_fault():
    def refuse(heard):
        heard[5] = replace(heard[5], accepted=False)
        heard.append(reception(6, 7.0))

    assert doctored(refuse) == []


def test_old_news_after_newer_ones_is_a_step_back_unless_a_worker_was_frozen():
    record = good()
    record.heard["B"].append(reception(5, 7.0))
    record.faults = [Fault("database", 6.0, 6.5)]
    assert check(record) == ["stepped back: 5 came after 6 [B, account 7]"]
    record.faults = [Fault("freeze", 5.2, 6.5)]
    assert check(record) == []


def test_a_repetition_with_another_body_is_altered():
    said = doctored(lambda heard: heard.insert(3, replace(heard.pop(3), body="another")))
    assert said == ["altered: 4 has two bodies [B]"]


def test_rows_in_the_live_tables_are_left_over():
    record = good()
    record.left = {"Event_Queue": 1, "Event_Notifications": 2}
    assert guarantees(check(record)) == {"left over"}


@pytest.mark.parametrize(
    "verdicts",
    [
        [],
        [(6, "B", "retry")],
        [(6, "B", "failed")],
        [(6, "B", "finished"), (6, "B", "rejected")],
        [(6, "B", "finished"), (9, "B", "finished")],
    ],
)
def test_the_journal_has_one_end_for_each_event_and_no_other(verdicts):
    record = good()
    kept = [one for one in record.verdicts if one[:2] != (6, "B")]
    record.verdicts = [*kept, *verdicts]
    assert guarantees(check(record)) == {"journal"}


def test_attempts_and_late_results_are_no_ends():
    record = good()
    record.verdicts = [*record.verdicts, (6, "B", "retry"), (6, "B", "orphan")]
    assert check(record) == []


def test_a_commit_that_the_billing_itself_has_lost_is_a_fault_of_the_record():
    record = good()
    record.writes = [*record.writes, Write(7, "7-3-c", "7-4-d", "committed")]
    assert guarantees(check(record)) == {"record"}


def test_a_value_that_nobody_wrote_is_a_fault_of_the_record():
    record = good()
    record.final = {7: "7-9-z"}
    assert "record" in guarantees(check(record))
