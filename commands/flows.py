"""`flows`: what each flow declares."""

from commands.console import JsonOption, aligned, out, print_json
from commands.site import configured
from models.flow import Flow
from settings import Settings


def list_flows(as_json: JsonOption = False) -> None:
    """The flows: folder, envelope, table, key, policy.

    Example:

      python main.py flows --json | jq '.[].table'
    """
    settings, flows = configured()
    described = [describe(flow, settings) for flow in flows.values()]
    if as_json:
        print_json(described)
        return
    for number, flow in enumerate(described):
        if number:
            out.print()
        out.print(str(flow.pop("name")))
        aligned((f"  {name.replace('_', ' ')}", in_words(value)) for name, value in flow.items())


def describe(flow: Flow, settings: Settings) -> dict[str, object]:
    return {
        "name": flow.name,
        "folder": str(settings.input_dir / flow.name),
        "envelope": flow.envelope,
        "file_prefixes": list(flow.file_prefixes),
        "table": flow.sql_table.name,
        "key": list(flow.key),
        "newest_by": flow.newest_by or ("append only" if flow.append_only else "last received"),
        "partly_bad": flow.partly_bad.value,
    }


def in_words(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else "none" if value is None else str(value)
