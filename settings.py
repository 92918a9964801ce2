"""Every setting, its default and its environment name; also read from `.env`."""

import difflib
import io
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from dotenv.parser import parse_stream
from pydantic import AliasChoices, BeforeValidator, Field, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import StopDaemon

_HINT = "see .env.example for every setting"


class LogLevel(StrEnum):
    """Loguru's levels."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"


class ObserverKind(StrEnum):
    """How folders are watched: `polling` where inotify does not fire (NFS, SMB, FUSE)."""

    INOTIFY = "inotify"
    POLLING = "polling"


_Level = Annotated[LogLevel, BeforeValidator(lambda value: str(value).upper())]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Kind = Annotated[ObserverKind, BeforeValidator(lambda value: str(value).lower())]


class Settings(BaseSettings):
    """Each field's environment name is its own in upper case, or the alias given here."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="forbid", frozen=True
    )

    database_url: SecretStr | None = Field(None, description="PostgreSQL to use; unset: the embedded server")
    input_dir: Path = Field(Path("input"), validation_alias=AliasChoices("input_dir", "data_inbound_dir"))
    output_dir: Path = Field(Path("output"), validation_alias=AliasChoices("output_dir", "data_outbound_dir"))
    archive_dir: Path = Path("archive")
    rejected_dir: Path = Path("rejected")
    data_dir: Path = Field(Path(".data"), description="embedded server, daemon state")
    flows_dir: Path | None = Field(None, description="a further folder of flow declarations")

    log_file: Path = Path("app.log")
    log_level: _Level = LogLevel.INFO
    log_json: bool = False

    observer: _Kind = ObserverKind.INOTIFY
    rescan_seconds: _Seconds = Field(10, description="a scan at least this often, whatever events say")
    settle_seconds: _Seconds = Field(2, description="rest of size and mtime where a read lease cannot tell")
    max_file_bytes: PositiveInt = Field(4 * 2**30, description="a larger file, also when decompressed, is refused")
    workers: int = Field(2, ge=1, le=64, description="flows loaded at the same time")

    @property
    def folders(self) -> dict[str, Path]:
        """The folders by the name of their setting."""
        return {
            "INPUT_DIR": self.input_dir,
            "OUTPUT_DIR": self.output_dir,
            "ARCHIVE_DIR": self.archive_dir,
            "REJECTED_DIR": self.rejected_dir,
        }


def load(env_file: Path | None = Path(".env")) -> Settings:
    """Read the environment and `env_file`.

    Raises StopDaemon with one sentence per wrong or unknown setting.
    """
    try:
        _check_lines(env_file)
        return Settings(_env_file=env_file)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
        sentences = [_sentence(str(*e["loc"][:1]), e["type"], e["msg"], e["input"]) for e in wrong]
        raise StopDaemon("; ".join(sentences), hint=_HINT) from None


def names() -> dict[str, str]:
    """Each name a setting is read by, in upper case, to its field."""
    return {alias.upper(): field for field in Settings.model_fields for alias in (field, *_aliases(field))}


def _aliases(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []


def _check_lines(env_file: Path | None) -> None:
    """Refuse a line that python-dotenv would only warn of and leave out."""
    if env_file is None or not env_file.is_file():
        return
    try:
        text = env_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StopDaemon(f"{env_file} cannot be read: {error}", hint=_HINT) from None
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key is not None and line.value is None):
            number = line.original.line + len(line.original.string) - len(line.original.string.lstrip("\n"))
            raise StopDaemon(f"line {number} of {env_file} is not NAME=value", hint=_HINT)


def _sentence(name: str, kind: str, message: str, value: object) -> str:
    name = name.upper()
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(name, names(), n=1)
        return f"unknown setting {name} in .env" + (f", did you mean {close[0]}?" if close else "")
    field = Settings.model_fields.get(names().get(name, ""))
    shown = "" if field is None or "Secret" in str(field.annotation) else f"={value!r}"
    return f"{name}{shown} is not valid: {message}"
