"""The verbs of a budget: set a share of a ledger aside for one analysis, and close a grant or the whole ledger."""

from typing import Annotated

from privae.cli import examples, ledgers
from privae.cli import options as given
from privae.cli.terminal import Terminal

Name = Annotated[str, given.argument("NAME", "A name for the grant, without spaces; it is public.")]
MaybeName = Annotated[
    str | None, given.argument("[NAME]", "The grant to close; without it, the whole ledger is closed.")
]
Asked = Annotated[float, given.option("--epsilon", text="What the analysis may spend.")]
Meant = Annotated[
    float | None,
    given.option("--delta", text="The delta that this epsilon is meant at. Default: the ledger's."),
]
Added = Annotated[
    float | None,
    given.option(
        "--added-delta",
        text="Of the ledger's delta, for thresholds and samplers. Default: the same share of all that it has for them.",
    ),
]


@ledgers.command(
    "grant",
    epilog=examples(
        "privae ledger grant hospital.ledger cardiology --epsilon 2",
        "privae fit patients.csv --schema patients.schema.toml --epsilon 1 --ledger hospital.ledger --grant cardiology",
    ),
)
def grant_share(  # noqa: PLR0913  one parameter an option
    place: given.LedgerPlace,
    name: Name,
    epsilon: Asked,
    delta: Meant = None,
    added_delta: Added = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Set a share of a ledger aside for one analysis: it is there whatever others spend, and it gets no more.

    A plan with gradients takes more of a ledger than one without of the same epsilon; a refusal says what fits.
    """
    out = Terminal(quiet, as_json)
    with out.progress("reading the ledger"):
        from privae.custody import budgets
        from privae.log import store
        from privae.privacy.ledger import Ledger

        ledger = Ledger.load(place)
        made = budgets.grant(ledger, name, epsilon, delta, added_delta)
    shown = store.shown(place)
    text = (
        f"granted epsilon {epsilon:g} at delta {made.delta:g}: charge it with --ledger {shown} --grant {name}"
    )
    fields = {"ledger": shown, "grant": name, "epsilon": epsilon, "delta": made.delta, "share": made.share}
    out.report(
        f"{text}\nremaining: epsilon {ledger.remaining:.4g}, for one more plan without a grant",
        {**fields, "added_delta": made.added_delta, "remaining": ledger.remaining, "head": ledger.head},
    )


@ledgers.command(
    "close",
    epilog=examples("privae ledger close hospital.ledger cardiology", "privae ledger close hospital.ledger"),
)
def close_budget(
    place: given.LedgerPlace,
    name: MaybeName = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Close a grant, whose unspent share goes back; or a ledger: nothing may be charged to it any more, ever.

    What was charged before is not touched: a fit under way goes on, and may be resumed.
    """
    out = Terminal(quiet, as_json)
    with out.progress("reading the ledger"):
        from privae.custody import budgets
        from privae.log import store
        from privae.privacy.ledger import Ledger

        ledger = Ledger.load(place)
        budgets.close(ledger, name or "")
    shown, left = store.shown(place), f"remaining: epsilon {ledger.remaining:.4g}"
    text = (
        f"closed grant {name}; {left}" if name else f"closed {shown}: nothing may be charged to it any more"
    )
    fields = {"ledger": shown, "grant": name, "remaining": ledger.remaining, "head": ledger.head}
    out.report(text, {**fields, "closed": name is None})
