"""What is written for people from the declarations: `.env.example`, and the flow table of the README.

`make reference` writes them; a test tells when that was forgotten.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import flows as flow_folder
import settings as settings_module
from flows import Flows
from models.connector import Setting
from models.flow import Flow
from models.outbound import Form, Outbound
from settings import Settings

ROOT = Path(__file__).parent.parent
ENV_EXAMPLE = ROOT / ".env.example"
README = ROOT / "README.md"
BEGIN, END = "<!-- flows: made by `make reference` -->", "<!-- end of flows -->"

_HEAD = """\
# Every setting with its default. Copy this file to .env beside main.py and take the # off what you change.
# A variable of the environment wins over .env, and .env over a credential of systemd. Seconds may have a fraction.
"""

_CONNECTORS = """\
# Connectors: each is on when its address is set (Intempus: its user; answers by SFTP: their folder), and then
# needs its credentials.
"""


def env_example(flows: Flows) -> str:
    """Every setting with its description and default."""
    declared = {setting.name: setting for flow in flows.values() for setting in flow.settings}
    entries = [*map(_own, Settings.model_fields), *map(_declared, declared.values())]
    own = len(Settings.model_fields)
    return "\n".join([_HEAD, *entries[:own], _CONNECTORS, *entries[own:]])


def _own(field: str) -> str:
    found = Settings.model_fields[field]
    aliases = [name for name, of in settings_module.names().items() if of == field and name != field.upper()]
    also = f" Also read: {', '.join(aliases)}." if aliases else ""
    default = "" if found.default is None else str(found.default)
    default = default.lower() if isinstance(found.default, bool) else default
    return _entry(f"{found.description}{also}", field.upper(), default)


def _declared(setting: Setting) -> str:
    return _entry(setting.description or setting.name, setting.name, setting.default)


def _entry(description: str, name: str, default: str) -> str:
    comment = "\n".join(f"# {line}" for line in textwrap.wrap(description, 110, break_on_hyphens=False))
    return f"{comment}\n#{name}={default}\n"


def flow_table(flows: Flows) -> str:
    """A line for each flow: what it takes, where it goes, what goes out."""
    head = ("flow", "a file holds", "table", "key", "newer by", "goes out as")
    rows = [head, ("---",) * len(head), *map(_row, flows.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(flow: Flow) -> tuple[str, ...]:
    tables = ", ".join(f"`{table.name}`" for table in flow.sql_tables)
    key = ", ".join(f"`{column}`" for column in flow.key)
    newer = f"`{flow.newest_by}`" if flow.newest_by else "never changed" if flow.append_only else "last received"
    out = "<br>".join(_sent(outbound) for outbound in flow.outbound) or "nothing"
    return (f"`{flow.name}`", "; ".join(_taken(flow)), tables, key, newer, out)


def _taken(flow: Flow) -> Iterator[str]:
    yield "a record, or a list of them" if flow.envelope is None else f'`{{"{flow.envelope}": [...]}}`'
    if flow.messages:
        yield f"EDI: {', '.join(f'`{kind}`' for kind in flow.messages)}"


def _sent(outbound: Outbound) -> str:
    name = f"`{outbound.name}`: " if outbound.name else ""
    each = {
        Form.ONE: "a file each" + (", once" if outbound.once else ""),
        Form.ARRAY: "lists",
        Form.ENVELOPE: f'`{{"{outbound.envelope}": [...]}}`',
        Form.LINES: "JSON Lines",
    }[outbound.form]
    return f"{name}{each}, `{outbound.file_name}`"


def readme(text: str, flows: Flows) -> str:
    """The README with the flow table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{flow_table(flows)}\n{END}{after}"


def write() -> None:
    """Write both."""
    flows = flow_folder.discover()
    ENV_EXAMPLE.write_text(env_example(flows))
    README.write_text(readme(README.read_text(), flows))


if __name__ == "__main__":
    write()
