"""What a server offers: everything that a holder of records needs to ask for scores, and nothing of the weights."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from privae import files
from privae.ckks.clear import DEVIATIONS, Clear
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import primes_of
from privae.data.codec import Codec
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.encrypted import features, samples
from privae.encrypted.circuit import PRECISION, Schedule, parameters_for
from privae.encrypted.compile import OUTPUTS, Compiled, Finish, compiled, prepared
from privae.errors import ArtifactError, UsageError
from privae.fitted.kinds import Fitted

Array = NDArray[np.float64]

FORMAT = "privae-offer/1"
_MOST_ROTATIONS = 256
_DRAWN = 32  # of the model's own samples, that errors are predicted on


def numbers_of(schema: Schema | ImageSchema, data: Any) -> Array:  # noqa: ANN401  a DataFrame, or uint8 images
    """Records as models read them: pixels in [0, 1], or one-hot cells without the label's: [n, d].

    Errors: UsageError or DataError for records of another schema.
    """
    if isinstance(schema, Schema):
        codec = Codec(schema)
        codes = codec.encode(data, strict=False)
        if codec.label is not None:
            codes[:, codec.label] = -1
        return codec.onehot(codes).double().numpy()
    shape = (schema.height, schema.width)
    if data.ndim != 3 or data.shape[1:] != shape or data.dtype != np.uint8:
        raise UsageError(f"images must be uint8 [n, {shape[0]}, {shape[1]}] as in the fit")
    rows: Array = data.reshape(len(data), shape[0] * shape[1]).astype(np.float64) / 255.0
    return rows


def size_of(schema: Schema | ImageSchema) -> int:
    """Numbers of a record: what `numbers_of` gives."""
    return int(Codec(schema).offsets[-1]) if isinstance(schema, Schema) else schema.height * schema.width


@dataclass(frozen=True)
class Output:
    """What comes back of one output: numbers a record, level and scale of its ciphertexts, bounds of their error.

    Predicted before any record is seen. error: for records like the model's own samples. worst: for records of random
    extremes, stranger than data are. noise: the deviation of the latter's noise. spread: deviation of the output itself
    among the model's own samples.
    """

    width: int
    level: int
    scale: float
    error: float
    worst: float
    noise: float
    spread: float


@dataclass(frozen=True)
class Offer:
    """The public side of a served model.

    layouts: lanes -> how many features repetitions move by. rotations: lanes -> steps that need Galois keys.
    switches: lanes -> key switches of one ciphertext; 0 lanes stands for one ciphertext a feature.
    """

    model: str
    schema: Schema | ImageSchema
    parameters: Parameters
    scale: float
    inputs: int
    outputs: Mapping[str, Output]
    finish: Finish
    norm: bool
    layouts: Mapping[int, int]
    rotations: Mapping[int, Sequence[int]]
    switches: Mapping[int, float]

    @property
    def steps(self) -> list[int]:
        """Steps of all rotations, in any layout."""
        return sorted(set().union(*self.rotations.values()))

    def layout(self, lanes: int) -> features.Layout:
        """Where the features of so many records lie in a ciphertext."""
        width = features.power(self.inputs)
        return features.Layout(self.parameters.slots, lanes, width, self.layouts[lanes])

    def packing(self, records: int, *, rotations: bool = True) -> int:
        """Lanes of the cheapest packing of so many records; 0 for one ciphertext a feature."""
        costs = {0: self.switches[0] * -(-records // self.parameters.slots)}
        if rotations:
            costs |= {lanes: self.switches[lanes] * -(-records // lanes) for lanes in self.layouts}
        return min(costs, key=lambda lanes: costs[lanes])

    def prepared(self, data: Any) -> Array:  # noqa: ANN401  a DataFrame, or uint8 images
        """Records as numbers: [n, inputs]. Errors: UsageError or DataError for records of another schema."""
        return prepared(numbers_of(self.schema, data), norm=self.norm)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `from_dict`."""
        table = isinstance(self.schema, Schema)
        text = self.schema.dumps() if isinstance(self.schema, Schema) else self.schema.model_dump_json()
        return {
            "format": FORMAT,
            "model": self.model,
            "schema": {"kind": "table" if table else "images", "text": text},
            "parameters": self.parameters.to_dict(),
            "scale": self.scale,
            "inputs": self.inputs,
            "outputs": {name: asdict(output) for name, output in self.outputs.items()},
            "finish": self.finish,
            "norm": self.norm,
            "layouts": {str(lanes): moved for lanes, moved in self.layouts.items()},
            "rotations": {str(lanes): list(steps) for lanes, steps in self.rotations.items()},
            "switches": {str(lanes): cost for lanes, cost in self.switches.items()},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Offer":
        """Inverse of `to_dict`. Errors: ArtifactError for anything else, or weak parameters."""
        try:
            if stored["format"] != FORMAT:
                raise ArtifactError(f"the offer has another format version; this privae reads {FORMAT}")
            text = stored["schema"]["text"]
            table = stored["schema"]["kind"] == "table"
            schema = Schema.loads(text) if table else ImageSchema.model_validate_json(text)
            made = cls(
                str(stored["model"]),
                schema,
                Parameters.from_dict(stored["parameters"]),
                float(stored["scale"]),
                int(stored["inputs"]),
                {
                    str(name): _output(stored["outputs"][name])
                    for name in sorted(stored["outputs"], key=_place)
                },
                cast("Finish", stored["finish"]),
                bool(stored["norm"]),
                {int(lanes): int(moved) for lanes, moved in stored["layouts"].items()},
                {int(lanes): list(map(int, steps)) for lanes, steps in stored["rotations"].items()},
                {int(lanes): float(cost) for lanes, cost in stored["switches"].items()},
            )
            made._check()
            return made
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            raise ArtifactError("the offer does not read; ask the server for it again") from None

    def _check(self) -> None:
        """Whether a client may build on it. Errors: ValueError for what no server offers."""
        parameters, slots = self.parameters, self.parameters.slots
        width = features.power(self.inputs)
        lanes, steps = set(self.layouts), self.steps
        wholes = [
            self.inputs == size_of(self.schema) + self.norm,
            self.finish in get_args(Finish),
            self.scale in {2.0**bits for bits in PRECISION.values()},
            set(self.outputs) <= set(OUTPUTS),
            bool(self.outputs),
            all(output.level <= parameters.levels for output in self.outputs.values()),
            all(n > 0 and n & (n - 1) == 0 and n * width <= slots for n in lanes),
            all(0 < moved <= width for moved in self.layouts.values()),
            set(self.rotations) == lanes,
            set(self.switches) == lanes | {0},
            all(math.isfinite(cost) and cost > 0 for cost in self.switches.values()),
            len(steps) <= _MOST_ROTATIONS,
            all(0 < step < slots for step in steps),
        ]
        if not all(wholes):
            raise ValueError("an offer that no server makes")

    def write(self, path: Path) -> None:
        """Write it as JSON that people can read."""
        content = json.dumps(self.to_dict(), indent=2, sort_keys=True).encode()
        files.write_atomically(path, lambda file: file.write(content))

    @classmethod
    def read(cls, path: Path) -> "Offer":
        """An offer from its file. Errors: UsageError for a file that cannot be read; ArtifactError for no offer."""
        try:
            stored = json.loads(files.text(path))
        except OSError:
            raise UsageError(f"{path} cannot be read") from None
        except (ValueError, RecursionError):
            raise ArtifactError(f"{path} is no offer; ask the server for it again") from None
        if not isinstance(stored, dict):
            raise ArtifactError(f"{path} is no offer; ask the server for it again")
        return cls.from_dict(stored)


def _place(name: str) -> tuple[int, str]:
    """Where an output stands among others: in the order of OUTPUTS, whatever order a file has."""
    return (OUTPUTS.index(name) if name in OUTPUTS else len(OUTPUTS), name)


def _output(stored: Mapping[str, Any]) -> Output:
    width, level = int(stored["width"]), int(stored["level"])
    rest = [float(stored[name]) for name in ("scale", "error", "worst", "noise", "spread")]
    if width < 1 or level < 0 or not all(math.isfinite(x) and x >= 0 for x in rest):
        raise ValueError("an output without numbers")
    return Output(width, level, *rest)


Programs = Mapping[int, features.Program]


@dataclass(frozen=True)
class Served:
    """A model ready to be served: its circuit, schedule, programs of every layout, and its offer."""

    compiled: Compiled
    schedule: Schedule
    programs: Programs
    offer: Offer


def served(
    fitted: Fitted,
    identity: str,
    outputs: Sequence[str] = ("score",),
    precision: str = "standard",
    known: Offer | None = None,
) -> Served:
    """Compile a fitted model. identity: the name of the fit. known: its offer, if it was made before, which saves time.

    Errors: UsageError for a model, outputs or a precision that cannot be served; see `compile.compiled`.
    """
    made = compiled(fitted, outputs)
    circuit = made.circuit
    parameters = parameters_for(circuit, precision)
    model = files.digest([identity, list(circuit.outputs), precision])
    if known is not None and known.model != model:
        raise UsageError("the offer is that of another model; write this one's: privae encrypted inspect -o")
    schedule = Schedule(circuit, parameters, primes_of(parameters), 2.0 ** PRECISION[precision])
    most = features.most_lanes(circuit, parameters.slots)
    lanes = sorted({1, most}) if most else []
    programs = {
        n: features.Program(schedule, features.Layout.of(circuit, parameters.slots, n)) for n in lanes
    }
    if known is not None:
        return Served(made, schedule, programs, known)
    offer = Offer(
        model=model,
        schema=fitted.schema,
        parameters=parameters,
        scale=schedule.scale,
        inputs=circuit.inputs,
        outputs=_outputs(fitted, made, schedule, programs),
        finish=made.finish,
        norm=made.norm,
        layouts={n: program.layout.moved for n, program in programs.items()},
        rotations={n: sorted(program.rotations()) for n, program in programs.items()},
        switches={0: samples.cost(schedule), **{n: program.cost() for n, program in programs.items()}},
    )
    return Served(made, schedule, programs, offer)


def _outputs(fitted: Fitted, made: Compiled, schedule: Schedule, programs: Programs) -> dict[str, Output]:
    """Outputs with the errors of either kind of record, in the worst of all packings."""
    drawn = fitted.sample(_DRAWN, 0)
    usual = numbers_of(fitted.schema, drawn[0] if isinstance(drawn, tuple) else drawn)
    strange = np.random.default_rng(0).integers(0, 2, usual.shape).astype(np.float64)
    found, circuit = made.evaluate(usual), made.circuit
    near, far = (
        _errors(schedule, programs, prepared(records, norm=made.norm)) for records in (usual, strange)
    )
    return {
        name: Output(
            circuit.width(value),
            schedule.lowest(value),
            schedule.scales[value],
            near[name][0],
            *far[name],
            float(found[name].std(0).max()),
        )
        for name, value in circuit.outputs.items()
    }


def _errors(schedule: Schedule, programs: Programs, rows: Array) -> dict[str, tuple[float, float]]:
    """Of every output of these records: a bound of how far it may be off, and the deviation of its noise.

    Both are found by the clear twin, which rounds weights and draws noise as ciphertexts do.
    """
    wanted, right = tuple(schedule.circuit.outputs), schedule.circuit.evaluate(rows)
    twin = Clear(schedule.parameters, schedule.primes, slots=len(rows))
    inputs = [twin.encrypt(column, schedule.scale) for column in rows.T]
    outputs = samples.run(twin, schedule, inputs, wanted)
    kinds = [
        {
            name: (np.stack([v.exact for v in values], 1), np.stack([v.error for v in values], 1))
            for name, values in outputs.items()
        }
    ]
    for lanes, program in programs.items():
        layout, whole = program.layout, Clear(schedule.parameters, schedule.primes)
        fresh = features.Program(schedule, layout)
        made = fresh.run(whole, whole.encrypt(layout.packed(rows[:lanes]), schedule.scale), wanted)
        count = min(lanes, len(rows))
        shape = {name: (right[name].shape[1], count) for name in wanted}
        kinds.append(
            {
                name: (layout.read(v.exact, *shape[name]), layout.read(v.error, *shape[name]))
                for name, v in made.items()
            }
        )
    return {
        name: (
            max(float((np.abs(exact - right[name][: len(exact)]) + error).max()) for exact, error in parts),
            max(float(error.max()) for _, error in parts) / DEVIATIONS,
        )
        for name, parts in ((name, [kind[name] for kind in kinds]) for name in wanted)
    }
