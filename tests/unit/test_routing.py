"""Which flow a file belongs to: by its folder, its name, or its first bytes."""

import json

import pytest
from hypothesis import given, strategies as st

import flows
from file_processing.inbound import routing
from file_processing.inbound.formats.json import JsonFormat
from models.errors import RejectFile

FLOWS = flows.discover()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_folder_tells_its_flow_at_any_depth(flow: str) -> None:
    for below in ("x.json", "2024/05/x.json"):
        found = routing.by_folder(f"{flow}/{below}", FLOWS)
        assert found is not None
        assert found.name == flow


def test_a_file_right_in_the_input_folder_has_no_flow_by_its_folder() -> None:
    assert routing.by_folder("vehicle_status", FLOWS) is None


def test_a_folder_of_no_flow_is_rejected_with_the_folders_that_are() -> None:
    with pytest.raises(RejectFile, match="the folder 'odd' belongs to no flow") as caught:
        routing.by_folder("odd/x.json", FLOWS)
    assert "work_orders/" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "head", "flow"),
    [
        ("VEHICLE_STATUS_1.json", b"", "vehicle_status"),
        ("work_orders.json", b"[", "work_orders"),
        ("x.json", b'{"vehicle_status": [{"vehi', "vehicle_status"),
        ("x.json", b'\xef\xbb\xbf {"sent": {"a": [1]}, "objects_detection_events": [', "detection_events"),
        ("detection_events_vehicle_status.json", b"{}", "detection_events"),
    ],
)
def test_name_or_envelope_tell_the_flow(name: str, head: bytes, flow: str) -> None:
    assert routing.by_content(name, head, FLOWS).name == flow


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("x.json", b'{"vehicle_status', "neither its name nor its envelope key"),
        ("x.json", b'[{"vehicle_status": []}]', "neither its name"),
        ("x.json", b'{"x": {"vehicle_status": []}}', "neither its name"),
        ("x.json", b"\xff\xfe{", "neither its name"),
        ("work_order.json", b'{"vehicle_status": []}', "it could belong to vehicle_status or work_orders"),
        ("x.json", b'{"vehicle_status": [], "objects_detection_events": []}', "it could belong to detection_events or"),
    ],
)
def test_no_flow_or_two_are_rejected(name: str, head: bytes, reason: str) -> None:
    with pytest.raises(RejectFile, match=reason) as caught:
        routing.by_content(name, head, FLOWS)
    assert "folder of its flow" in caught.value.hint


def signs_of_json(head: bytes) -> frozenset[str]:
    return JsonFormat().signs(head)


@given(st.binary(max_size=100))
def test_any_bytes_have_some_envelope_keys_or_none(head: bytes) -> None:
    assert all(isinstance(key, str) for key in signs_of_json(head))


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=5), st.integers(0, 100))
def test_a_document_cut_anywhere_has_no_keys_but_its_own(document: dict[str, int], cut: int) -> None:
    text = json.dumps(document).encode()
    assert signs_of_json(text) == document.keys()
    assert signs_of_json(text[:cut]) <= document.keys()
