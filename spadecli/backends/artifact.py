"""The metadata of converted files (.onnx and .engine), read without importing torch or a runtime."""

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
    """The source and options of an export: in the metadata of an .onnx, in the side file of an engine.

    weights: path of the weights, relative to the folder of the generator's file. precision: of the generator; the
    encoder is always fp32. size, trained_size: image size of the graph and of training, HxW.
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
    """NAME.engine.json: everything known about an engine without a GPU.

    compute_capability: that of the GPU it was built on; "" if targets or the runtime determine where it runs.
    inputs, outputs: name -> (type, shape), -1 for a dynamic size. profile: the generator's batch sizes, also in the
    side file of its encoder. photo_sides: (least, best, most) sides of a photo, for an encoder; it takes one photo at a
    time. onnx_sha256: hash of the graph that the engine was built from, which is not kept.
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
    """A converted file and its metadata.

    card: card of the weights, with the size of the artifact. side: side file of an engine; None for ONNX.
    """

    path: Path
    card: Card
    export: ExportInfo
    side: EngineSidecar | None = None

    @property
    def precision(self) -> Precision:
        """The precision of the generator."""
        return self.export.precision

    @property
    def generator(self) -> Path:
        """The generator's file: this one or, for an encoder, the one it belongs to."""
        if self.export.kind == "generator":
            return self.path
        return shown(self.path.absolute().parent.parent / self.path.name)

    @property
    def places(self) -> tuple[Path, Path]:
        """Possible paths of its weights: where they were at conversion (relative to the artifact), and beside it."""
        folder = self.generator.absolute().parent.resolve()
        stored = Path(os.path.normpath(folder / self.export.weights))
        return shown(stored), shown(self.generator.absolute().parent / stored.name)

    @property
    def weights(self) -> Path:
        """The path of its weights if they are found, else their name alone."""
        return next((p for p in self.places if is_there(p)), Path(self.places[0].name))

    @property
    def rebuild(self) -> str:
        """The command that converts the weights to this file again."""
        words = ["spade", "convert", str(self.weights), "--to", self.side.runtime if self.side else "onnx"]
        words += ["--precision", self.precision, "--size", self.export.size]
        if self.side:
            for name, numbers in asdict(self.side.profile).items():
                words += [f"--{name}", ",".join(map(str, numbers))]
        if self.side and self.side.targets:
            words += ["--target", ",".join(self.side.targets)]
        return shlex.join([*words, "-o", str(self.generator), "--overwrite"])


def is_there(path: Path) -> bool:
    """Whether a file exists; False for invalid names."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shown(path: Path) -> Path:
    """Shorten an absolute path for messages: relative to the current folder if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def path_from(folder: Path, file: Path) -> str:
    """Return the path of a file relative to a folder; absolute if that is impossible (another drive)."""
    # the name itself is not resolved: a rebuild starts from a link such as latest.safetensors
    file = file.absolute().parent.resolve() / file.name
    try:
        return Path(os.path.relpath(file, folder.resolve())).as_posix()
    except ValueError:
        return str(file)


def side_file(engine: Path) -> Path:
    """Return NAME.engine.json beside NAME.engine."""
    return engine.with_name(f"{engine.name}.json")


def encoder_file(path: Path) -> Path:
    """Return encoder/NAME beside NAME: the image encoder of the same weights."""
    return path.parent / "encoder" / path.name


def require(module: str, package: str) -> Any:
    """Import ``module``. Raises BackendUnavailable with the command that installs ``package``."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise BackendUnavailable(f"{package} is not installed ({e})", hint=INSTALL[package]) from e


def read_artifact(path: Path) -> Record:
    """Read the metadata of an .onnx or .engine file, of a generator or an encoder."""
    return read_engine(path) if path.suffix == ".engine" else read_onnx(path)


def read_onnx(path: Path) -> Record:
    """Read the metadata of an .onnx file.

    Raises UserError if it is damaged or has no card, BackendUnavailable without onnx.
    """
    onnx = require("onnx", "onnx")
    again = f"convert again: {_command(path, 'onnx')}"
    try:
        model = onnx.load(path)
    except Exception as e:
        raise UserError(f"{path}: not a readable ONNX file ({e})", hint=again) from e
    if not model.ByteSize():  # protobuf reads an empty file as an empty model
        raise UserError(f"{path}: an empty file", hint=again)
    metadata = {p.key: p.value for p in model.metadata_props}
    if "spade_card" not in metadata or "spade_export" not in metadata:
        raise UserError(f"{path}: has no spade card", hint="only files from spade convert can be opened")
    card = _parsed(Card, f"{path}: its card (spade_card)", metadata["spade_card"], again)
    return Record(path, card, _parsed(ExportInfo, f"{path}: its spade_export", metadata["spade_export"], again))


def read_engine(path: Path) -> Record:
    """Read the metadata of an .engine file from its side file. Raises UserError if that is missing or damaged."""
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
    """Return the record. Raises UserError if it is an encoder's."""
    if record.export.kind == "generator":
        return record
    raise UserError(
        f"{record.path}: an image encoder, which renders nothing",
        hint=f"give its generator: {record.generator}"
        if record.generator.is_file()
        else f"convert both again: {record.rebuild}",
    )


M = TypeVar("M", bound=BaseModel)


def _parsed(model: type[M], what: str, text: str, hint: str) -> M:
    """Parse JSON text to a model. Raises UserError, which lists every problem."""

    def refuse(problems: list[str], error: Exception | None) -> NoReturn:
        message = f"{what}: damaged, or of another version of spade"
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
    """Return the command that creates such a file, without its metadata; an encoder's generator is one folder up."""
    if path.absolute().parent.name == "encoder":
        path = shown(path.absolute().parent.parent / path.name)
    return f"{shlex.join(['spade', 'convert', 'WEIGHTS.safetensors', '--to', kind, '-o', str(path)])} --overwrite"


def check_fixed_size(card: Card, path: Path, size: tuple[int, int]) -> None:
    """Raise UserError for a (height, width) other than the artifact's."""
    fixed = card.architecture.size
    if size != fixed:
        raise UserError(
            f"{path}: renders images of {format_size(fixed)} only, not {format_size(size)}",
            hint=f"spade convert with --size {format_size(size)} creates another file for that size",
        )
