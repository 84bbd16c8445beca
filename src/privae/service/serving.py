"""The server's verbs of `privae encrypted`: what a model takes, one computation by files, and the service."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from privae.cli import examples
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import PrivacyRefused, UsageError
from privae.service.commands import check_output, encrypted

if TYPE_CHECKING:
    from privae.encrypted.offer import Offer, Served
    from privae.vae import VAE

Anything = Annotated[Path, given.argument("FILE", "A model (.privae), an offer (.json), or a .pvhe file.")]
MaybeOffered = Annotated[
    Path | None,
    given.option("--offer", text="The offer to keep to. Default: scores only, standard precision."),
]
PublicKeys = Annotated[
    Path, given.option("--keys", text="The public keys that came with the records (.pvhe).")
]
Records = Annotated[Path, given.argument("RECORDS", "Packed records (.pvhe).")]
Outputs = Annotated[
    str,
    given.option("--outputs", text="Of score, codes, reconstruction; commas between. Default: score alone."),
]
Precision = Annotated[str, given.option("--precision", text="fast, standard (default) or precise.")]
Host = Annotated[str, given.option("--host", text="Which address to listen at. Default: 127.0.0.1.")]
Port = Annotated[int, given.option("--port", text="Which port to listen at. Default: 8010.")]
Hourly = Annotated[
    int, given.option("--hourly", text="Most ciphertexts of scores that leave in an hour. Default: 500.")
]
Plain = Annotated[
    bool,
    given.option("--not-private", text="Serve a model without a guarantee: whoever asks enough learns it."),
]

_CONNECTIONS = 64
_SCORES = {
    "minus log of the sum": "the score of privae score: minus the log-evidence",
    "as it is": "the squared error of the reconstruction, which is not the score of privae score",
}


@encrypted.command(
    epilog=examples(
        "privae encrypted inspect scans.privae -o offer.json",
        "privae encrypted inspect scans.privae --outputs score,codes --precision precise",
        "privae encrypted inspect records.pvhe",
    )
)
def inspect(
    file: Anything,
    output: given.MaybeOutput = None,
    outputs: Outputs = "score",
    precision: Precision = "standard",
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Say what a model takes to be computed on ciphertexts, and write its offer; or what a file holds."""
    out = Terminal(quiet, as_json)
    if _is_container(file):
        from privae.ckks.container import load

        header = load(file).header()
        rows = [("holds", header["kind"]), *_parameters(header["parameters"]), ("key", header["key"][:16])]
        out.answer(
            aligned(
                [*rows, *((_plain(name), _plain(str(value))) for name, value in header["about"].items())]
            ),
            header,
        )
        return
    with out.progress(f"reading {file.name}"):
        from privae import files
        from privae.encrypted.offer import Offer

        known = files.inner(file).suffix == ".json"
        fitted = None if known else _loaded(file, plain=True)
        offer = Offer.read(file) if fitted is None else _served(fitted, outputs.split(","), precision).offer
        if output is not None:
            check_output(output, (".json",), [file] if not known else [])
            offer.write(output)
    if fitted is not None and not fitted.guarantee.holds:
        out.note(
            "this model was fitted without noise: whoever asks enough learns its records; see --not-private"
        )
    written = f"\n\nwrote {output}: give it to whoever has records" if output else ""
    out.answer(f"{_described(offer)}{written}", offer.to_dict())


@encrypted.command(
    epilog=examples("privae encrypted score scans.privae records.pvhe --keys clinic.pvhe -o results.pvhe")
)
def score(  # noqa: PLR0913  one parameter an option
    model: given.Model,
    records: Records,
    keys: PublicKeys,
    output: given.Output,
    offer: MaybeOffered = None,
    plain: Plain = False,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Compute a model on packed records, without a secret key: the server's side, by files."""
    out = Terminal(quiet, as_json)
    with out.progress(f"loading {model.name}") as watch:
        from privae.ckks.container import load
        from privae.encrypted import scoring

        check_output(output, (".pvhe",), [model, records, keys])
        served = _kept_to(model, offer, plain=plain)
        packed = load(records, "records")
        results = scoring.score(served, scoring.Keys.of(load(keys, "keys"), served.offer), packed, watch)
        results.write(output)
    text = f"wrote {output}: results of {packed.about['rows']} records, for whoever has their key"
    out.report(text, {"output": output, "records": packed.about["rows"], "bytes": output.stat().st_size})


@encrypted.command(epilog=examples("privae encrypted serve scans.privae --port 8010"))
def serve(  # noqa: PLR0913  one parameter an option
    model: given.Model,
    outputs: Outputs = "score",
    precision: Precision = "standard",
    host: Host = "127.0.0.1",
    port: Port = 8010,
    hourly: Hourly = 500,
    plain: Plain = False,
    quiet: given.Quiet = False,
) -> None:
    """Serve a model over HTTP. It holds no secret key; put a proxy with TLS and log-in before it."""
    out = Terminal(quiet, as_json=False)
    with out.progress(f"loading {model.name}"):
        from privae.ckks.scheme import library

        library()  # names the extra, if it is not there
        import uvicorn

        from privae.service import web

        served = _served(_loaded(model, plain=plain), outputs.split(","), precision)
        application = web.service(served, web.Limits(hourly=hourly))
    out.note(f"{_described(served.offer)}\n\nlistening at http://{host}:{port}; stop with Ctrl-C")
    uvicorn.run(
        application, host=host, port=port, log_level="error", access_log=False, limit_concurrency=_CONNECTIONS
    )


def _loaded(model: Path, *, plain: bool) -> "VAE":
    """A fitted model. plain: even if it was fitted without noise. Errors: PrivacyRefused for such a one."""
    from privae.cli import request

    fitted = request.load(model)
    if not plain and not fitted.guarantee.holds:
        raise PrivacyRefused(
            "this model was fitted without noise, and whoever asks enough learns its weights: serve a private fit, "
            "or say --not-private"
        )
    return fitted


def _served(fitted: "VAE", outputs: list[str], precision: str, known: "Offer | None" = None) -> "Served":
    """A model, compiled."""
    from privae.encrypted.offer import served
    from privae.fitted.ratings import FittedRatings
    from privae.fitted.units import Units

    if isinstance(fitted.fitted_, FittedRatings | Units):
        raise UsageError(
            f"models of {fitted.fitted_.kind} are not computed on ciphertexts: whoever has the model uses it locally"
        )
    return served(fitted.fitted_, fitted.identity, [name.strip() for name in outputs], precision, known)


def _kept_to(model: Path, offer: Path | None, *, plain: bool) -> "Served":
    """A model, compiled as its offer says."""
    fitted = _loaded(model, plain=plain)
    if offer is None:
        return _served(fitted, ["score"], "standard")
    from privae.encrypted.circuit import PRECISION
    from privae.encrypted.offer import Offer

    known = Offer.read(offer)
    named = {2.0**bits: name for name, bits in PRECISION.items()}
    return _served(fitted, list(known.outputs), named.get(known.scale, ""), known)


def _is_container(file: Path) -> bool:
    from privae import files
    from privae.ckks.container import MAGIC

    try:
        with files.opened(file) as opened:
            return files.inner(file).suffix == ".pvhe" or opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return files.inner(file).suffix == ".pvhe"


def _plain(text: str) -> str:
    """What may stand on a terminal of what somebody else wrote."""
    return "".join(filter(str.isprintable, text))[:60]


def _parameters(stored: dict[str, Any]) -> list[tuple[str, str]]:
    total = sum(stored["bits"])
    return [
        (
            "parameters",
            f"degree {stored['degree']}, {len(stored['bits'])} primes of {total} bits, 128-bit security",
        )
    ]


def _described(offer: "Offer") -> str:
    """An offer as a person reads it."""
    from privae.encrypted.scoring import expected_key_bytes

    parameters = offer.parameters
    rows = [
        *_parameters(parameters.to_dict()),
        ("levels", f"{parameters.levels} products one upon another"),
        ("records", f"{offer.inputs} numbers each; up to {parameters.slots} in a batch"),
    ]
    for name, output in offer.outputs.items():
        many = f"{output.width} numbers" if output.width > 1 else "1 number"
        rows.append(
            (
                name,
                f"{many} a record, which differ by about {output.spread:.2g} between records of the model;",
            )
        )
        rows.append(("", f"off by at most {output.error:.2g} (strangest records: {output.worst:.2g})"))
    if "score" in offer.outputs:
        rows.append(("", _SCORES[offer.finish]))
    batch, all_ = (expected_key_bytes(offer, rotations=kind) / 1e6 for kind in (False, True))
    rows.append(("public keys", f"{all_:.0f} MB; {batch:.0f} MB with keys --batch, for batches alone"))
    return aligned(rows)
