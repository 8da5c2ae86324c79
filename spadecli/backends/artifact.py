"""What a converted file says of itself. Loads neither torch nor a runtime."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..core.errors import BackendUnavailable, UserError
from ..core.schema import describe_errors
from ..core.sizes import format_size
from ..weights.card import Card
from .profile import Profile, is_range

Precision = Literal["fp32", "fp16", "bf16"]
Part = Literal["generator", "encoder"]
Runtime = Literal["tensorrt", "tensorrt-rtx"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SizeText = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}x[1-9]\d{0,5}$")]
Tensors = dict[str, tuple[str, tuple[int, ...]]]
INSTALL = {
    "onnx": 'pip install "spadecli[onnx]"',
    "onnxruntime": 'pip install "spadecli[onnx]"',
    "tensorrt": 'pip install "spadecli[tensorrt]"',
    "tensorrt-rtx": 'pip install "spadecli[tensorrt-rtx]"',
}


class ExportInfo(BaseModel):
    """What a graph was made from, and how: in the metadata of an .onnx, in the side file of an engine.

    weights: their path as seen from the folder of the generator's file. precision: the generator's; the encoder is
    fp32 always. size, trained_size: HxW.
    """

    model_config = ConfigDict(frozen=True)

    kind: Part
    weights: str = Field(min_length=1)
    weights_sha256: Sha256
    trained_size: SizeText
    size: SizeText
    precision: Precision
    opset: int
    created_by: str


class EngineSidecar(BaseModel):
    """NAME.engine.json: all that is known of an engine without a GPU.

    compute_capability: of the GPU it was built on, "" where targets, or the runtime, say where it runs.
    inputs, outputs: name -> (type, shape), -1 for a dynamic size. profile: of the generator, in the side file of
    its encoder too, whose own is photo_sides: one photo at a time, of these sides (least, best, most).
    onnx_sha256: of the graph that the engine was built from, which is not kept.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["spade-engine"] = "spade-engine"
    format_version: Literal[1] = 1
    created_by: str
    runtime: Runtime
    runtime_version: str
    compute_capability: Annotated[str, Field(pattern=r"^(\d+\.\d)?$")]
    targets: tuple[Annotated[str, Field(pattern=r"^sm\d{2,}$")], ...]
    precision: Precision
    profile: Profile
    photo_sides: tuple[int, int, int] | None = None
    inputs: Tensors
    outputs: Tensors
    weights_sha256: Sha256
    onnx_sha256: Sha256
    engine_sha256: Sha256
    engine_bytes: int = Field(ge=0)
    verification: dict[str, Any] | None = None
    export: ExportInfo
    card: Card

    @field_validator("profile")
    @classmethod
    def _ascending(cls, profile: Profile) -> Profile:
        for name, numbers in asdict(profile).items():
            if not is_range(numbers):
                raise ValueError(f"{name} {list(numbers)}: expected three ascending numbers from 1 on")
        return profile


@dataclass(frozen=True)
class Record:
    """card: of the weights, its size the artifact's. side: the engine's side file, None for ONNX."""

    path: Path
    card: Card
    export: ExportInfo
    side: EngineSidecar | None = None

    @property
    def precision(self) -> Precision:
        """The generator's."""
        return self.export.precision

    @property
    def generator(self) -> Path:
        """The generator's file: this one, or the one that this encoder belongs to."""
        if self.export.kind == "generator":
            return self.path
        return shown(self.path.absolute().parent.parent / self.path.name)

    @property
    def places(self) -> tuple[Path, Path]:
        """Where its weights may be: where they were when it was made (seen from the artifact), and beside it."""
        folder = self.generator.absolute().parent.resolve()
        stored = Path(os.path.normpath(folder / self.export.weights))
        return shown(stored), shown(self.generator.absolute().parent / stored.name)

    @property
    def weights(self) -> Path:
        """Its weights, as far as they are found; else their name alone."""
        return next((p for p in self.places if is_there(p)), Path(self.places[0].name))

    @property
    def rebuild(self) -> str:
        """The command that makes the file again from its weights."""
        words = ["spade", "convert", str(self.weights), "--to", self.side.runtime if self.side else "onnx"]
        words += ["--precision", self.precision, "--size", self.export.size]
        if self.side:
            for name, numbers in asdict(self.side.profile).items():
                words += [f"--{name}", ",".join(map(str, numbers))]
        if self.side and self.side.targets:
            words += ["--target", ",".join(self.side.targets)]
        return shlex.join([*words, "-o", str(self.generator), "--overwrite"])


def is_there(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is that of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shown(path: Path) -> Path:
    """An absolute path as people type it: from the current folder where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def path_from(folder: Path, file: Path) -> str:
    """Path of a file as seen from a folder; absolute where there is none (another drive)."""
    # the name itself stays as given: a link such as latest.safetensors is what a rebuild starts from
    file = file.absolute().parent.resolve() / file.name
    try:
        return Path(os.path.relpath(file, folder.resolve())).as_posix()
    except ValueError:
        return str(file)


def side_file(engine: Path) -> Path:
    """NAME.engine.json beside NAME.engine."""
    return engine.with_name(f"{engine.name}.json")


def encoder_file(path: Path) -> Path:
    """encoder/NAME beside NAME: the image encoder of the same weights."""
    return path.parent / "encoder" / path.name


def require(module: str, package: str) -> Any:
    """Import ``module``, or BackendUnavailable with the line that installs ``package``."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise BackendUnavailable(f"{package} is not installed ({e})", hint=INSTALL[package]) from e


def read_artifact(path: Path) -> Record:
    """Record of an .onnx or .engine file, of a generator or an encoder."""
    return read_engine(path) if path.suffix == ".engine" else read_onnx(path)


def read_onnx(path: Path) -> Record:
    """Record of an .onnx file. Raises UserError where it is damaged or has no card, BackendUnavailable without onnx."""
    onnx = require("onnx", "onnx")
    again = f"make it again: {_command(path, 'onnx')}"
    try:
        model = onnx.load(path)
    except Exception as e:
        raise UserError(f"{path}: not a readable ONNX file ({e})", hint=again) from e
    if not model.ByteSize():  # protobuf reads an empty file as an empty model
        raise UserError(f"{path}: an empty file", hint=again)
    metadata = {p.key: p.value for p in model.metadata_props}
    if "spade_card" not in metadata or "spade_export" not in metadata:
        raise UserError(f"{path}: has no spade card", hint="only files made by spade convert can be opened")
    card = _parsed(Card, f"{path}: its card (spade_card)", metadata["spade_card"], again)
    return Record(path, card, _parsed(ExportInfo, f"{path}: its spade_export", metadata["spade_export"], again))


def read_engine(path: Path) -> Record:
    """Record of an .engine file, from its side file. Raises UserError where that is missing or damaged."""
    side_path = side_file(path)
    again = f"build it again: {_command(path, 'tensorrt-rtx')} (or --to tensorrt)"
    try:
        text = side_path.read_text("utf-8")
    except FileNotFoundError as e:
        raise UserError(f"{path}: its side file {side_path.name} is missing", hint=again) from e
    except (OSError, ValueError) as e:
        raise UserError(f"{side_path}: not readable ({e})", hint=again) from e
    side = _parsed(EngineSidecar, str(side_path), text, again)
    return Record(path, side.card, side.export, side)


def expect_generator(record: Record) -> Record:
    """The record itself; UserError where it is of an encoder."""
    if record.export.kind == "generator":
        return record
    raise UserError(
        f"{record.path}: an image encoder, which renders nothing",
        hint=f"name its generator: {record.generator}"
        if record.generator.is_file()
        else f"make both again: {record.rebuild}",
    )


M = TypeVar("M", bound=BaseModel)


def _parsed(model: type[M], what: str, text: str, hint: str) -> M:
    """JSON text as a model, or a UserError with every problem of it."""

    def refuse(problems: list[str], error: Exception | None) -> NoReturn:
        message = f"{what}: damaged, or not of this version of spade"
        raise UserError(message, problems=problems, hint=hint) from error

    try:
        data = json.loads(text)
    except ValueError as e:
        refuse([f"not JSON: {e}"], e)
    if not isinstance(data, dict):
        refuse([f"expected a JSON object, found {type(data).__name__}"], None)
    try:
        return model.model_validate_json(text)
    except ValidationError as e:
        refuse(describe_errors(e, model), e)


def _command(path: Path, kind: str) -> str:
    """How such a file is made, where it does not tell: an encoder comes with its generator, in the folder above."""
    if path.absolute().parent.name == "encoder":
        path = shown(path.absolute().parent.parent / path.name)
    return f"{shlex.join(['spade', 'convert', 'WEIGHTS.safetensors', '--to', kind, '-o', str(path)])} --overwrite"


def check_fixed_size(card: Card, path: Path, size: tuple[int, int]) -> None:
    """Refuse a (height, width) other than the one that the artifact is made for."""
    fixed = card.architecture.size
    if size != fixed:
        raise UserError(
            f"{path}: made for images of {format_size(fixed)}, asked for {format_size(size)}",
            hint=f"spade convert with --size {format_size(size)} makes another file for that size",
        )
