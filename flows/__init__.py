"""One file, or one package, per integration flow: the only room that knows a partner's fields."""

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from models.connector import Setting
from models.errors import StopDaemon
from models.flow import Flow

Flows = dict[str, Flow]
"""Every flow by its name, in order of names."""

_PACKAGE = "__init__.py"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def discover(*further: Path) -> Flows:
    """The flows declared in this folder and in `further` ones: each `NAME.py`, or package `NAME/`, holds `FLOW`.

    Raises StopDaemon when one declares no flow, fails to import, or repeats a name.
    """
    found: Flows = {}
    for folder in (Path(__file__).parent, *further):
        if not folder.is_dir():
            raise StopDaemon(f"FLOWS_DIR {folder} is not a folder")
        for name, path in _candidates(folder.absolute()):
            if not _NAME.fullmatch(name):
                raise StopDaemon(f"{path}: a flow's name is lower case letters, digits and _, at most 40")
            if name in found:
                raise StopDaemon(f"{path}: there is already a flow {name!r}", hint="rename it")
            found[name] = _declared(name, path)
    return dict(sorted(found.items()))


def migrations(*further: Path) -> list[Path]:
    """Where the migrations of flows' tables lie: in a folder beside the flows. A new one goes into the last."""
    return [folder.absolute() / "migrations" for folder in (Path(__file__).parent, *further)]


def _candidates(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of what may declare a flow; names that start with `_` or `.` never do."""
    files = [(path.stem, path) for path in folder.glob("*.py")]
    packages = [(path.parent.name, path) for path in folder.glob(f"*/{_PACKAGE}")]
    yield from sorted((name, path) for name, path in (*files, *packages) if not name.startswith(("_", ".")))


def settings(flows_dir: Path | None) -> tuple[Setting, ...]:
    """What the connectors of all flows read, each name once. Raises StopDaemon as `discover` does."""
    found = discover(*([flows_dir] if flows_dir else [])).values()
    return tuple({setting.name: setting for flow in found for setting in flow.settings}.values())


def _declared(name: str, path: Path) -> Flow:
    try:
        flow = getattr(_load(name, path), "FLOW", None)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}," if lines else ""
        raise StopDaemon(f"{path}{where} does not import: {type(error).__name__}: {error}") from error
    if not isinstance(flow, Flow):
        raise StopDaemon(f"{path} declares no flow", hint="a flow's file ends with FLOW = Flow(...)")
    return dataclasses.replace(flow, name=name)


def _load(name: str, path: Path) -> ModuleType:
    module_name = f"flows.{name}"
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ == str(path):
        return known
    inside = [str(path.parent)] if path.name == _PACKAGE else None
    spec = importlib.util.spec_from_file_location(module_name, path, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    setattr(sys.modules[__name__], name, module)  # as an import statement does
    return module
