"""The gentle stream of the demo: what the people and systems around Tidegate do, one act after the other."""

import argparse
import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import httpx
from dotenv import dotenv_values

VEHICLES = ("van-21", "van-22", "truck-7", "truck-8")
STATUSES = ("driving", "parking", "charging", "accident")
OBJECTS = ("pedestrians", "cars", "trucks", "signs", "obstacles")
NAMES = ("Ada", "Bo", "Carla", "Dag", "Eva", "Finn", "Gro", "Hugo")

ORDERS_D96A = """\
UNA:+.? '
UNB+UNOC:3+5790000000012:14+4012345000009:14+{date:%y%m%d}:{date:%H%M}+{control}'
UNH+1+ORDERS:D:96A:UN:EAN008'
BGM+220+{number}+9'
DTM+137:{date:%Y%m%d}:102'
DTM+2:{delivery:%Y%m%d}:102'
NAD+BY+5790000000012::9'
NAD+SU+4012345000009::9'
CUX+2:EUR:9'
LIN+1++4006381333931:EN'
QTY+21:{quantity}:PCE'
PRI+AAA:9.99'
UNS+S'
CNT+2:1'
UNT+13+1'
UNZ+1+{control}'
"""
X12_850 = """\
ISA*00*          *00*          *ZZ*PARTNER2       *ZZ*TIDEGATE       *\
{date:%y%m%d}*{date:%H%M}*U*00401*{control:09}*0*P*>~
GS*PO*PARTNER2*TIDEGATE*{date:%Y%m%d}*{date:%H%M}*{control}*X*004010~
ST*850*0001~
BEG*00*NE*{number}**{date:%Y%m%d}~
CUR*BY*EUR~
DTM*002*{delivery:%Y%m%d}~
N1*BY*Example Stores*92*B-12~
PO1*1*{quantity}*EA*9.99**VP*BRG-6204~
CTT*1~
SE*8*0001~
GE*1*{control}~
IEA*1*{control:09}~
"""


def interchange(template: str, number: int) -> str:
    """An EDI file with order PO-<number>, whose control number is the number too."""
    now = datetime.now(UTC)
    return template.format(
        number=f"PO-{number}", control=number, date=now, delivery=now + timedelta(days=7), quantity=1 + number % 20
    )


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where everybody is: the input folder, and the settings by which the daemon finds its partners."""

    input_dir: Path
    settings: Mapping[str, str]


def acts(neighbours: Neighbours) -> Iterator[Callable[[], str]]:
    """The acts in turn, for ever; each says in a sentence what it did. They raise httpx and asyncssh errors."""
    # Control numbers may not come again, not even in the next demo.
    numbers = itertools.count(int(time.time()) % 10**9)
    turn = (_vehicle_status, _customer, _edifact, _case, _detection, _partner1, _work_order, _x12)
    for act in itertools.cycle(turn):
        yield lambda act=act: act(neighbours, next(numbers))  # type: ignore[misc]


def _vehicle_status(near: Neighbours, number: int) -> str:
    vehicle, status = random.choice(VEHICLES), random.choice(STATUSES)
    report = {"vehicle_id": vehicle, "report_time": _now().isoformat(), "status": status}
    name = _drop(near, "vehicle_status", number, {"vehicle_status": [report]})
    return f"{vehicle} reports {status} in {name}"


def _detection(near: Neighbours, number: int) -> str:
    seen = [{"object_type": kind, "object_value": random.randint(1, 9)} for kind in random.sample(OBJECTS, 2)]
    event = {"vehicle_id": random.choice(VEHICLES), "detection_time": _now().isoformat(), "detections": seen}
    name = _drop(near, "detection_events", number, {"objects_detection_events": [event]})
    return f"{event['vehicle_id']} sees {seen[0]['object_type']} and {seen[1]['object_type']} in {name}"


def _work_order(near: Neighbours, number: int) -> str:
    order_no, now = 1 + number % 20, _now().isoformat()
    done = random.random() < 0.5
    order = {"orderNo": order_no, "isDone": done, "summary": f"Check pump P-{order_no}"}
    name = _drop(near, "work_orders", number, {**order, "creationDate": now, "lastUpdateDate": now})
    return f"work order {order_no} is {'done' if done else 'in progress'} in {name}"


def _customer(near: Neighbours, number: int) -> str:
    name = f"{random.choice(NAMES)} {number % 10_000}"
    body = {"name": name, "email": f"customer-{number}@example.com"}
    _call("POST", f"{near.settings['CRM_API_URL']}/customers", body)
    return f"the CRM has a new customer, {name}"


def _case(near: Neighbours, number: int) -> str:
    base = f"{near.settings['INTEMPUS_API_URI']}/case/"
    headers = {"Authorization": f"ApiKey {near.settings['INTEMPUS_API_USER']}:{near.settings['INTEMPUS_API_KEY']}"}
    cases = _call("GET", f"{base}?limit=10000", headers=headers).json()["objects"]
    if len(cases) > 4 and number % 3 == 0:
        case = random.choice(cases)
        _call("DELETE", f"{base}{case['id']}/", headers=headers)
        return f"Intempus: case {case['name']} is deleted"
    if cases and number % 3 == 1:
        case = random.choice(cases)
        _call("PUT", f"{base}{case['id']}/", {"notes": f"seen at {_now():%H:%M:%S}"}, headers)
        return f"Intempus: case {case['name']} is changed"
    name = f"Roof {number % 10_000}"
    _call("POST", base, {"name": name, "customer": f"/web/v1/customer/{1 + number % 50}/"}, headers)
    return f"Intempus: case {name} is new"


def _partner1(near: Neighbours, number: int) -> str:
    order = {
        "order_number": f"P1-{number}",
        "ordered_at": _now().isoformat(),
        "currency": "EUR",
        "buyer": {"id": "B-12", "name": "Example Stores"},
        "lines": [{"line_number": 1, "sku": "BRG-6204", "quantity": str(1 + number % 9), "unit_price": "9.99"}],
    }
    headers = {"Authorization": f"Bearer {near.settings['PARTNER1_API_TOKEN']}"}
    _call("POST", f"{near.settings['PARTNER1_API_URL']}/orders", order, headers)
    return f"Partner 1 places order {order['order_number']}"


def _edifact(near: Neighbours, number: int) -> str:
    return _upload(near, f"ORDERS-{number}.edi", ORDERS_D96A, number)


def _x12(near: Neighbours, number: int) -> str:
    return _upload(near, f"850-{number}.x12", X12_850, number)


def _upload(near: Neighbours, name: str, template: str, number: int) -> str:
    asyncio.run(_put(near.settings, name, interchange(template, number)))
    return f"Partner 2 uploads {name}"


async def _put(settings: Mapping[str, str], name: str, text: str) -> None:
    """Upload as most partners do: under another name, then by a rename."""
    async with (
        asyncssh.connect(
            settings["PARTNER2_SFTP_HOST"],
            int(settings["PARTNER2_SFTP_PORT"]),
            username=settings["PARTNER2_SFTP_USER"],
            password=settings["PARTNER2_SFTP_PASS"],
            known_hosts=settings["PARTNER2_SFTP_KNOWN_HOSTS"],
            client_keys=None,
            agent_path=None,
            config=None,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):
        folder = settings["PARTNER2_SFTP_PATH"]
        async with sftp.open(f"{folder}/{name}.part", "w") as file:
            await file.write(text)
        await sftp.posix_rename(f"{folder}/{name}.part", f"{folder}/{name}")


def _call(method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
    answer = httpx.request(method, url, json=body, headers=headers, timeout=10, trust_env=False)
    return answer.raise_for_status()


def _drop(near: Neighbours, flow: str, number: int, content: object) -> str:
    name = f"{flow}_{number}.json"
    temporary = near.input_dir / flow / f".{name}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(content))
    temporary.rename(near.input_dir / flow / name)
    return f"input/{flow}/{name}"


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m partners.stream", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="the daemon's input folder")
    parser.add_argument("--env-file", type=Path, required=True, metavar="FILE", help="the daemon's settings")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="the pause between two acts")
    options = parser.parse_args()
    settings = {name: value for name, value in dotenv_values(options.env_file).items() if value is not None}
    # A relative path in there is seen from the folder that the daemon runs in.
    known_hosts = options.env_file.parent / settings["PARTNER2_SFTP_KNOWN_HOSTS"]
    near = Neighbours(options.input, {**settings, "PARTNER2_SFTP_KNOWN_HOSTS": str(known_hosts)})
    with suppress(KeyboardInterrupt):
        for act in acts(near):
            try:
                told = act()
            except (httpx.HTTPError, asyncssh.Error, OSError, ValueError) as error:  # somebody plays with the faults
                told = f"an act did not work: {error}"
            print(f"  {datetime.now().astimezone():%H:%M:%S}  {told}", flush=True)  # noqa: T201
            time.sleep(options.every)


if __name__ == "__main__":
    main()
