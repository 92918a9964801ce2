"""Every setting, its default and its environment name; also read from `.env`, and from systemd's credentials."""

import difflib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, BeforeValidator, Field, PositiveInt, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.connector import Kind, Setting
from models.errors import StopDaemon

VERSION = "0.1.0"
"""Of this program."""

_HINT = "see .env.example for every setting"

ENV_FILE = Path(__file__).with_name(".env")
"""Beside `main.py`; that of the working folder may be anybody's."""

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable by which systemd names the folder of what the unit loads by `LoadCredential=`."""


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
        env_file=None, env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )
    _declared: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    database_url: SecretStr | None = Field(
        None,
        description="The PostgreSQL to use, postgresql://USER:PASSWORD@HOST:PORT/DATABASE; HOST:PORT,HOST:PORT for a "
        "primary and its standbys. Without it Tidegate starts its own under DATA_DIR.",
    )
    database_direct_url: SecretStr | None = Field(
        None,
        description="The same database without the pooler: needed where DATABASE_URL names a PgBouncer in transaction "
        "mode, for locks and LISTEN.",
    )
    input_dir: Path = Field(
        Path("input"),
        validation_alias=AliasChoices("input_dir", "data_inbound_dir"),
        description="Where files are dropped: a folder per flow, or this folder itself.",
    )
    output_dir: Path = Field(
        Path("output"),
        validation_alias=AliasChoices("output_dir", "data_outbound_dir"),
        description="Where outbound files appear, a folder per flow.",
    )
    archive_dir: Path = Field(
        Path("archive"),
        description="Where loaded files go, by flow and day; on the file system of INPUT_DIR the move is one rename.",
    )
    rejected_dir: Path = Field(Path("rejected"), description="Where rejected files go, each with its report.")
    data_dir: Path = Field(Path(".data"), description="Where the embedded server and the daemon's own state live.")
    flows_dir: Path | None = Field(
        None, description="A further folder of flow declarations, beside the ones that come with Tidegate."
    )

    log_file: Path = Field(Path("app.log"), description="The rotating log file; the console gets the same lines.")
    log_level: _Level = Field(
        LogLevel.INFO, description="TRACE, DEBUG, INFO, SUCCESS, WARNING or ERROR; DEBUG and TRACE may show records."
    )
    log_json: bool = Field(False, description="One JSON object a line, for log collectors.")

    observer: _Kind = Field(
        ObserverKind.INOTIFY, description="inotify, or polling where inotify does not fire: NFS, SMB, FUSE."
    )
    rescan_seconds: _Seconds = Field(
        10, description="INPUT_DIR is scanned at least this often, so a lost event delays a file and never loses it."
    )
    settle_seconds: _Seconds = Field(
        2, description="How long a file must rest before it counts as complete, where the system cannot tell at once."
    )
    max_file_bytes: PositiveInt = Field(4 * 2**30, description="A larger file, also when decompressed, is rejected.")
    max_unpack_ratio: PositiveInt = Field(
        100,
        description="A packed file that unpacks into more than so many times its bytes, and 1 MiB, is rejected.",
    )
    max_rejects: int = Field(
        1000,
        ge=0,
        description="A file with more bad records, if that is more than a tenth of those read, is rejected as a whole.",
    )
    min_free_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="With fewer bytes free on the disk of a folder above nothing is taken in; 0 takes always.",
    )
    workers: int = Field(
        2,
        ge=1,
        le=64,
        description="How many flows load at the same time, 1 to 64; a further worker keeps small files from waiting "
        "for long ones.",
    )

    api_host: str = Field("127.0.0.1", description="Where the HTTP API listens.")
    api_port: int = Field(
        9001, ge=0, le=65535, description="Its port: webhooks and cases, /docs shows all of it; 0 for no API."
    )
    api_token: SecretStr | None = Field(
        None,
        min_length=8,
        description="Requests send it as Authorization: Bearer; without one a token is made at the first start, "
        "in DATA_DIR/api-token.",
    )
    api_allowed_hosts: str = Field(
        "",
        description="Further names under which the API is asked for, with commas between them; localhost and API_HOST "
        "are known.",
    )
    plain_http_hosts: str = Field(
        "",
        description="Hosts of partners to which credentials may go over plain http, with commas between them: the "
        "network between has to be your own, as that of Compose is.",
    )

    @property
    def folders(self) -> dict[str, Path]:
        """The folders by the name of their setting."""
        return {
            "INPUT_DIR": self.input_dir,
            "OUTPUT_DIR": self.output_dir,
            "ARCHIVE_DIR": self.archive_dir,
            "REJECTED_DIR": self.rejected_dir,
        }

    def text(self, setting: Setting) -> str:
        """The value of a setting that a flow declares; its default, or empty, where it is not given."""
        return self.secret(setting).get_secret_value()

    def secret(self, setting: Setting) -> SecretStr:
        """The same, never shown."""
        return self._declared.get(setting.name) or SecretStr(setting.default)

    @property
    def declared(self) -> Mapping[str, SecretStr]:
        """What is given of the names that flows declare."""
        return self._declared

    def with_values(self, **values: str) -> "Settings":
        """These settings with values for names that flows declare."""
        made = self.model_copy()
        made._declared = self._declared | {name: SecretStr(value) for name, value in values.items()}
        return made


def listed(value: str) -> tuple[str, ...]:
    """The parts of a value that has commas between them."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


Declared = Callable[[Path | None], Iterable[Setting]]
"""From FLOWS_DIR to the settings that flows declare."""


def load(env_file: Path | None = None, declared: Declared = lambda _flows_dir: ()) -> Settings:
    """Read the environment, then `env_file`, then systemd's credentials, a file for each name; the first one counts.

    Raises StopDaemon with one sentence per wrong or unknown setting.
    """
    _check_lines(env_file)
    in_file = {name.upper(): value for name, value in dotenv_values(env_file).items()} if env_file else {}
    credentials = _credentials()
    given = {name: value for name, value in {**credentials, **in_file, **_environment()}.items() if value}
    further = {
        setting.name: setting for setting in declared(Path(given["FLOWS_DIR"]) if "FLOWS_DIR" in given else None)
    }
    values = {name: given[name] for name in further if name in given}
    known = {*names(), *further}
    sentences = [_unknown(name, known, str(env_file)) for name in in_file if name not in known]
    sentences += [_unknown(name, known, "the credentials") for name in credentials if name not in known]
    sentences += [sentence for name, value in values.items() if (sentence := _misfit(further[name], value))]
    try:
        settings = Settings(_env_file=env_file, _secrets_dir=os.environ.get(CREDENTIALS) if credentials else None)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
        sentences = [_sentence(str(*e["loc"][:1]), e["msg"], e["input"]) for e in wrong] + sentences
        raise StopDaemon("; ".join(sentences), hint=_HINT) from None
    if sentences:
        raise StopDaemon("; ".join(sentences), hint=_HINT)
    return settings.with_values(**values)


def _environment() -> Mapping[str, str]:
    return {name.upper(): value for name, value in os.environ.items()}


def _credentials() -> dict[str, str]:
    folder = os.environ.get(CREDENTIALS)
    try:
        files = [path for path in Path(folder).iterdir() if path.is_file()] if folder else []
        return {path.name.upper(): path.read_text("utf-8").strip() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise StopDaemon(f"a credential in {folder} cannot be read: {error}", hint=_HINT) from None


def _misfit(setting: Setting, value: str) -> str | None:
    """What is wrong with a declared setting's value."""
    wrong = None
    match setting.kind:
        case Kind.URL:
            if "@" in value or "?" in value:
                return f"{setting.name} is not valid: credentials and a query do not belong into an address"
            if not _is_address(value):
                wrong = "it should be http://HOST or https://HOST, with a port and a path where there is one"
        case Kind.SECRET if not (value.isascii() and value.isprintable() and value == value.strip()):
            return f"{setting.name} is not valid: it should be printable ASCII, without a blank at either end"
        case Kind.PORT if not (value.isdecimal() and 0 < int(value) < 65536):
            wrong = "it should be a number from 1 to 65535"
        case Kind.SECONDS:
            try:
                seconds = float(value)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds < math.inf:
                wrong = "it should be a number of seconds, more than 0"
        case _:
            pass
    return wrong and f"{setting.name}={value!r} is not valid: {wrong}"


def _is_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # a bracket left open, a port over 65535
        return False
    plain = value.isascii() and value.isprintable() and " " not in value
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not parts.fragment


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


def _unknown(name: str, known: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"unknown setting {name} in {where}" + (f", did you mean {close[0]}?" if close else "")


def _sentence(name: str, message: str, value: object) -> str:
    name = name.upper()
    field = Settings.model_fields.get(names().get(name, ""))
    shown = "" if field is None or "Secret" in str(field.annotation) else f"={value!r}"
    return f"{name}{shown} is not valid: {message}"
