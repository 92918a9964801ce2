"""Settings: each is read, checked and named, and no secret is shown."""

import re
from pathlib import Path

import pytest

import flows
import settings
from models.connector import Setting
from models.errors import StopDaemon
from tests.support.flow_files import flow_files

EXAMPLE = Path(__file__).parents[2] / ".env.example"
SECRET = "hunter2"
URL = f"postgresql://tidegate:{SECRET}@localhost/tidegate"
DECLARED = {setting.name: setting for setting in flows.settings(None)}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.names():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.chdir(tmp_path)


def from_file(text: str) -> settings.Settings:
    Path(".env").write_text(text)
    return settings.load(Path(".env"), declared=flows.settings)


def complaint(text: str) -> str:
    with pytest.raises(StopDaemon) as stop:
        from_file(text)
    assert SECRET not in str(stop.value)
    return stop.value.reason


def test_example_names_every_setting_with_its_default() -> None:
    lines = EXAMPLE.read_text().splitlines()
    shown = dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z0-9_]+=", line))
    assert list(shown)[: len(settings.Settings.model_fields)] == [
        name.upper() for name in settings.Settings.model_fields
    ]
    assert {name: shown[name] for name in DECLARED} == {name: one.default for name, one in DECLARED.items()}
    assert len(shown) == len(settings.Settings.model_fields) + len(DECLARED)

    read, bare = from_file("\n".join(f"{name}={value}" for name, value in shown.items())), settings.load(env_file=None)
    assert read.model_dump() == bare.model_dump()
    assert all(read.text(setting) == bare.text(setting) for setting in DECLARED.values())


def test_example_says_why_of_every_setting_and_names_its_aliases() -> None:
    text = re.sub(r"(?<=\S)\n# ", " ", EXAMPLE.read_text())  # a comment may take several lines
    for name in (*settings.Settings.model_fields, *DECLARED):
        assert re.search(rf"^# \S.*\n#{name.upper()}=", text, re.MULTILINE), name
    for alias, field in settings.names().items():
        if alias != field.upper():
            assert re.search(rf"Also read: {alias}\.\n#{field.upper()}=", text)


def test_environment_wins_over_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "3")
    read = from_file("WORKERS=4\nLOG_LEVEL=debug\nLOG_JSON=yes")
    assert (read.workers, read.log_level, read.log_json) == (3, settings.LogLevel.DEBUG, True)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("INPUT_DIR", "input_dir"),
        ("DATA_INBOUND_DIR", "input_dir"),
        ("OUTPUT_DIR", "output_dir"),
        ("DATA_OUTBOUND_DIR", "output_dir"),
    ],
)
def test_folder_by_either_name(name: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(from_file(f"{name}=from/file"), field) == Path("from/file")
    monkeypatch.setenv(name, "from/environment")
    assert getattr(settings.load(), field) == Path("from/environment")


def test_own_name_wins_over_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_INBOUND_DIR", "alias")
    monkeypatch.setenv("INPUT_DIR", "own")
    assert settings.load().input_dir == Path("own")


def test_empty_value_means_the_default() -> None:
    assert from_file("INPUT_DIR=\nDATABASE_URL=") == settings.load(env_file=None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("WORKERS=many", "WORKERS='many' is not valid"),
        ("WORKERS=0", "WORKERS='0' is not valid: Input should be greater than or equal to 1"),
        ("LOG_LEVEL=loud", "LOG_LEVEL='LOUD' is not valid: Input should be 'TRACE', 'DEBUG'"),
        ("OBSERVER=kqueue", "OBSERVER='kqueue' is not valid: Input should be 'inotify' or 'polling'"),
        ("RESCAN_SECONDS=inf", "RESCAN_SECONDS='inf' is not valid"),
        ("SETTLE_SECONDS=-1", "SETTLE_SECONDS='-1' is not valid"),
        ("MAX_FILE_BYTES=4GB", "MAX_FILE_BYTES='4GB' is not valid"),
        (f"DATABSE_URL={URL}", "unknown setting DATABSE_URL in .env, did you mean DATABASE_URL?"),
        ("DATA_INBOUND=x", "unknown setting DATA_INBOUND in .env, did you mean DATA_INBOUND_DIR?"),
        ("COLOUR=blue", "unknown setting COLOUR in .env"),
        ("CRM_API_URI=http://crm", "unknown setting CRM_API_URI in .env, did you mean CRM_API_URL?"),
        ("CRM_API_URL=crm:8000", "CRM_API_URL='crm:8000' is not valid: it should be http://HOST"),
        (f"CRM_API_URL=http://me:{SECRET}@crm", "CRM_API_URL is not valid: credentials and a query do not"),
        (f"CRM_API_URL=ftp://me:{SECRET}@crm", "CRM_API_URL is not valid: credentials and a query do not"),
        (f"CRM_API_URL=https://crm?key={SECRET}", "CRM_API_URL is not valid: credentials and a query do not"),
        ("CRM_API_URL=http://[::1", "CRM_API_URL='http://[::1' is not valid: it should be http://HOST"),
        ("CRM_API_URL=http://crm:99999", "CRM_API_URL='http://crm:99999' is not valid: it should be http://HOST"),
        (f"ERP_API_TOKEN='{SECRET} '", "ERP_API_TOKEN is not valid: it should be printable ASCII"),
        (f"ERP_API_TOKEN={SECRET}é", "ERP_API_TOKEN is not valid: it should be printable ASCII"),
        (f'ERP_API_TOKEN="{SECRET}\\n"', "ERP_API_TOKEN is not valid: it should be printable ASCII"),
        ("PARTNER2_SFTP_PORT=ssh", "PARTNER2_SFTP_PORT='ssh' is not valid: it should be a number from 1 to 65535"),
        ("POLLING_INTERVAL_SECONDS=0", "POLLING_INTERVAL_SECONDS='0' is not valid: it should be a number of seconds"),
        ("\n\nWORKERS: 4", "line 3 of .env is not NAME=value"),
        ("LOG_JSON", "line 1 of .env is not NAME=value"),
    ],
)
def test_wrong_setting_is_named(line: str, sentence: str) -> None:
    assert complaint(line).startswith(sentence)


def test_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "65")
    assert complaint("").startswith("WORKERS='65' is not valid")


def test_every_wrong_setting_is_named() -> None:
    assert re.search("WORKERS=.*; .*COLOUR", complaint("WORKERS=many\nCOLOUR=blue"))


def test_file_that_is_not_utf8_is_named() -> None:
    Path(".env").write_bytes(b"INPUT_DIR=\xff")
    with pytest.raises(StopDaemon, match=r"^\.env cannot be read"):
        settings.load(Path(".env"))


def test_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    read = from_file(f"DATABASE_URL={URL}")
    assert read.database_url is not None
    assert read.database_url.get_secret_value() == URL
    for shown in (repr(read), str(read), repr(read.database_url), str(read.model_dump()), read.model_dump_json()):
        assert SECRET not in shown


def test_wrong_secret_is_named_without_its_value() -> None:
    sentence = settings._sentence("database_url", "Input should be a valid string", URL)
    assert sentence == "DATABASE_URL is not valid: Input should be a valid string"


def test_a_flow_of_ones_own_declares_its_own_names(tmp_path: Path) -> None:
    text = (Path(flows.__file__).parent / "customers.py").read_text()
    text = text.replace("CRM_API_URL", "SHOP_API_URL").replace('"customers"', '"shop_customers"')
    with flow_files(tmp_path / "further", shop_customers=text) as folder:
        read = from_file(f"FLOWS_DIR={folder}\nSHOP_API_URL=http://shop\nCRM_API_URL=http://crm")
        assert [read.text(Setting(name)) for name in ("SHOP_API_URL", "CRM_API_URL")] == ["http://shop", "http://crm"]
        assert "unknown setting SHOP_API_URI" in complaint(f"FLOWS_DIR={folder}\nSHOP_API_URI=x")


def test_a_password_may_hold_anything() -> None:
    assert from_file("PARTNER2_SFTP_PASS='pässword '").text(DECLARED["PARTNER2_SFTP_PASS"]) == "pässword "


def test_a_declared_secret_is_never_shown() -> None:
    read = from_file(f"ERP_API_TOKEN={SECRET}")
    assert read.secret(DECLARED["ERP_API_TOKEN"]).get_secret_value() == SECRET
    assert SECRET not in repr(read) + str(read.model_dump()) + str(read.secret(DECLARED["ERP_API_TOKEN"]))


def test_a_credential_of_systemd_is_read_where_nothing_else_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DATABASE_URL": f"{URL}\n", "CRM_API_URL": "http://crm\n", "WORKERS": "3\n"}.items():
        (tmp_path / name).write_text(value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("WORKERS", "5")
    read = settings.load(declared=flows.settings)
    assert read.database_url is not None
    assert read.database_url.get_secret_value() == URL
    assert read.text(DECLARED["CRM_API_URL"]) == "http://crm"
    assert read.workers == 5


def test_a_credential_that_is_no_setting_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "DATABSE_URL").write_text(URL)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(
        StopDaemon, match="unknown setting DATABSE_URL in the credentials, did you mean DATABASE_URL"
    ) as e:
        settings.load(declared=flows.settings)
    assert SECRET not in str(e.value)
