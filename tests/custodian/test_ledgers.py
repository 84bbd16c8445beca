"""The ledger that participants verify, as a person uses it: every change of a log is found, and every fork is named."""

from privae.custodian import leaves


def test_leaves_of_a_study_are_append_only_while_it_runs(course) -> None:
    made, before = course(steps=5, block=2), ()
    for _ in made.run():
        now = tuple(
            leaves.leaves_of(made.study, made.plan, made.account.ledger.entries, made.steps, made.model)
        )
        assert now[: len(before)] == before
        assert len(now) == len(before) + 1 or not before
        before = now
    assert len(before) == 2 + 4 + 6 + 2 + 1  # study, plan; charges, sums, agreed; the end


def test_a_finished_study_verifies(finished) -> None:
    found = leaves.read(str(finished.folder))
    print("\n".join(found.lines()))
