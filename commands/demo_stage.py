"""What the demo shows: the daemon among the stand-ins of its partners, a screen that explains it, a stream."""

import fcntl
import secrets
import shlex
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

from commands.console import aligned, from_here, out
from commands.demo_processes import Processes, free_port
from flows import Flows
from models.errors import StopDaemon

ROOT = Path(__file__).parent.parent
LOOPBACK = "127.0.0.1"
PORTS = {
    "crm": 8000,
    "inventory": 8001,
    "erp": 8002,
    "partner1": 8003,
    "sftp": 8004,
    "intempus": 8005,
    "ssh": 2222,
    "api": 9001,
}
TOKEN = secrets.token_urlsafe(12)
"""Of the demo's API, another one each time; its `.env` has it for the commands."""


def show(home: Path, flows: Flows, host: str, every: float, stopping: threading.Event) -> None:
    """Run all of it below `home` until `stopping`.

    Raises StopDaemon when a part ends by itself, or another demo uses that folder.
    """
    for name in flows:
        (home / "input" / name).mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StopDaemon(f"a demo is at work in {home}", hint="end it, or give another --folder") from None
        _run(home, host, every, stopping)


def _run(home: Path, host: str, every: float, stopping: threading.Event) -> None:
    out.print(f"Starting the daemon and its partners in {from_here(home)}/ …")
    out.print()
    ports = {name: free_port(port, host) for name, port in PORTS.items()}
    with Processes(home) as processes:
        partners = [name for name in ports if name not in ("ssh", "api")]
        for name in partners:
            arguments = ["-m", f"partners.{name}", "--host", host, "--port", str(ports[name])]
            if name == "sftp":
                arguments += ["--sftp-port", str(ports["ssh"]), "--folder", str(home / "partner2")]
            else:
                arguments += ["--state", str(home / f"{name}.sqlite")]
            if name == "crm":
                # It is polled as well, so each customer comes twice, and still gets one package.
                hook = f"http://{LOOPBACK}:{ports['api']}/inbound/customers"
                arguments += ["--webhook", hook, "--webhook-token", TOKEN]
            processes.start(name, arguments, ROOT)
        for name in partners:
            processes.wait_for(name, f"http://{LOOPBACK}:{ports[name]}/_faults", stopping)
        if stopping.is_set():
            return
        _write_settings(ports, host, home)
        processes.start("daemon", [str(ROOT / "main.py"), "--env-file", str(home / ".env"), "run"], home)
        processes.wait_for("daemon", f"http://{LOOPBACK}:{ports['api']}/healthz", stopping)
        tell_what_to_try(ports, home)
        stream = ["-m", "partners.stream", "--input", str(home / "input"), "--env-file", str(home / ".env")]
        processes.start("stream", [*stream, "--every", str(every)], ROOT, shown=True)
        while not stopping.wait(0.2):
            processes.check()
        out.print("Ending …")


def _write_settings(ports: Mapping[str, int], host: str, home: Path) -> None:
    """Write the daemon's `.env`, which other commands are to be given too."""
    known_hosts = home / "known_hosts"
    known_hosts.write_text(httpx.get(f"http://{LOOPBACK}:{ports['sftp']}/_known_hosts", trust_env=False).json())
    settings = {"API_HOST": host, "API_PORT": str(ports["api"]), "API_TOKEN": TOKEN, **connector_settings(ports)}
    (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def connector_settings(ports: Mapping[str, int]) -> dict[str, str]:
    """What switches every connector of the built-in flows on, each to its stand-in."""
    return {
        "POLLING_INTERVAL_SECONDS": "2",
        "CRM_API_URL": f"http://{LOOPBACK}:{ports['crm']}",
        "INVENTORY_API_URL": f"http://{LOOPBACK}:{ports['inventory']}",
        "ERP_API_URL": f"http://{LOOPBACK}:{ports['erp']}",
        "ERP_API_TOKEN": "erp-token",
        "PARTNER1_API_URL": f"http://{LOOPBACK}:{ports['partner1']}",
        "PARTNER1_API_TOKEN": "partner1-token",
        "PARTNER2_SFTP_HOST": LOOPBACK,
        "PARTNER2_SFTP_PORT": str(ports["ssh"]),
        "PARTNER2_SFTP_USER": "partner2",
        "PARTNER2_SFTP_PASS": "partner2-password",
        "PARTNER2_SFTP_PATH": "/orders",
        "PARTNER2_SFTP_ARCHIVE": "/archive",
        "PARTNER2_SFTP_ANSWERS": "/answers",
        "PARTNER2_SFTP_KNOWN_HOSTS": "known_hosts",
        "INTEMPUS_API_URI": f"http://{LOOPBACK}:{ports['intempus']}/web/v1",
        "INTEMPUS_API_USER": "demo@example.com",
        "INTEMPUS_API_KEY": "intempus-key",
    }


def tell_what_to_try(ports: Mapping[str, int], home: Path) -> None:
    url = {name: f"http://{LOOPBACK}:{port}" for name, port in ports.items()}
    here, program = (
        shlex.quote(str(from_here(home))),
        shlex.join([sys.executable, str(ROOT / "main.py"), "--env-file", ".env"]),
    )
    out.print("The daemon, six partner systems and a gentle stream are at work; Ctrl-C ends all of it.")
    out.print()
    out.print("Open")
    aligned(
        [
            ("  Tidegate's API", f"{url['api']}/docs", f"Authorize with {TOKEN}"),
            ("  CRM", f"{url['crm']}/customers", "people make customers here"),
            ("  Inventory", f"{url['inventory']}/package-requests", "each customer gets one welcome package"),
            ("  ERP", f"{url['erp']}/_received", "the orders that were sent to it"),
            ("  Partner 1", f"{url['partner1']}/docs", "orders, fetched by REST"),
            (
                "  Partner 2",
                f"{url['sftp']}/files/answers",
                f"answers to its EDI orders, by SFTP on port {ports['ssh']}",
            ),
            ("  Intempus", f"{url['intempus']}/docs", "the master of the cases"),
        ]
    )
    out.print("  Each partner has /docs, /_received (what came) and /_faults (what shall go wrong).")
    out.print()
    out.print("Try, from another terminal")
    token, json = f"-H 'Authorization: Bearer {TOKEN}'", "-H 'content-type: application/json' -d"
    fault = f"curl {url['inventory']}/_faults -X PUT {json}"
    aligned(
        [
            ("  Go there first", f"cd {here}    (the folder and its .env make every command look at the demo)"),
            ("  What became of the files", f"{program} files"),
            ("  How it stands", f"{program} status"),
            ("  What the daemon says", "tail -f daemon.log"),
            ("  Drop files yourself", f"cp {ROOT}/sample_files/work_orders/*.json input/; ls output/work_orders"),
            ("  Make a case, here and there", f'curl {url["api"]}/case {token} {json} \'{{"name": "Mine"}}\''),
            ("  Find what was deleted there", f"curl -X POST {url['api']}/case/sync {token}"),
            ("  An outage of the Inventory", f"{fault} '{{\"error_rate\": 1}}'"),
            ("  Its end", f"{fault} '{{}}'    (nothing is lost or doubled)"),
        ]
    )
    out.print()
    out.print("Now")
