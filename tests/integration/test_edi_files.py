"""EDI files dropped by hand: rows, answers, reports and repeats, as people and partners see them."""

import gzip

import pytest

from tests.support import edi_samples
from tests.support.edi_samples import ORDER, ORDER_X12, replaced
from tests.support.sites import Site
from tests.support.waiting import eventually

SECOND = replaced(ORDER, "BGM", "BGM+220+PO-2+9")
BAD = replaced(replaced(ORDER, "BGM", "BGM+220+PO-3+9"), "QTY", "QTY+21:x:PCE")


def with_reference(text: str, reference: str) -> str:
    return text.replace("REF1", reference)


def answers(site: Site, kind: str) -> list[str]:
    """The answers of a kind, oldest first."""
    folder = site.settings.output_dir / "orders" / kind
    paths = [path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file()]
    return [path.read_text("latin-1") for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]


def load(site: Site, **texts: str | bytes) -> None:
    """Load files of these names, without their suffix, as one group."""
    for name, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode("latin-1")
        suffix = ".edi.gz" if data.startswith(b"\x1f\x8b") else ".x12" if data.startswith(b"ISA") else ".edi"
        site.drop(name + suffix, data, flow="orders")
    site.load()


def load_and_answer(site: Site, **texts: str | bytes) -> None:
    load(site, **texts)
    site.call("emit")


def statuses(site: Site) -> list[str]:
    return [line["status"] for line in site.ledger()]


def test_an_edifact_file_becomes_orders_and_is_answered(live: Site) -> None:
    live.drop("a.edi", edi_samples.edifact(ORDER, SECOND), flow="orders")
    (line,) = live.settled(1)
    assert (line["status"], line["records"], line["inserted"]) == ("loaded", 2, 2)
    assert [(row["partner"], row["order_number"]) for row in live.rows("orders")] == [
        ("BUYER", "PO-1"),
        ("BUYER", "PO-2"),
    ]
    assert [(row["gtin"], row["quantity"]) for row in live.rows("order_lines")] == [("4006381333931", 10)] * 2
    eventually(lambda: len(answers(live, "ordrsp")) == 2, what="both answers")
    assert all("+29'" in text and "UNB+UNOC:3+SELLER:ZZ+BUYER:ZZ+" in text for text in answers(live, "ordrsp"))
    (contrl,) = eventually(lambda: answers(live, "contrl"), what="CONTRL")
    assert "UCI+REF1+BUYER:ZZ+SELLER:ZZ+7'" in contrl
    eventually(lambda: not live.query("select 1 from orders where not is_synced"), what="the marks")
    numbers = [
        text.partition("UNZ+1+")[2].partition("'")[0] for kind in ("ordrsp", "contrl") for text in answers(live, kind)
    ]
    assert len({*numbers}) == 3


def test_an_x12_file_dropped_into_the_input_folder_itself_finds_its_flow(live: Site) -> None:
    live.drop("anything.txt", edi_samples.x12())
    (line,) = live.settled(1)
    assert (line["flow"], line["status"]) == ("orders", "loaded")
    (acknowledgement,) = eventually(lambda: answers(live, "997"), what="the 997")
    assert "AK9*A*1*1*1~" in acknowledgement
    (response,) = eventually(lambda: answers(live, "855"), what="the 855")
    assert "BAK*00*AD*PO-1*20260131" in response
    assert answers(live, "ordrsp") == []


def test_a_rejected_interchange_is_answered_and_nothing_of_it_loads(live: Site) -> None:
    live.drop("a.edi", edi_samples.edifact(unt="UNT+99+1"), flow="orders")
    (line,) = live.settled(1)
    assert (line["status"], line["error"]) == (
        "rejected",
        "UNT (segment 11), element 1: counts 99, the message has 11 segments at line 13",
    )
    (contrl,) = eventually(lambda: answers(live, "contrl"), what="CONTRL")
    assert "UCI+REF1+BUYER:ZZ+SELLER:ZZ+4+29'" in contrl
    live.drop("b.x12", edi_samples.x12(ge="GE*9*7"), flow="orders")
    live.settled(2)
    (functional,) = eventually(lambda: answers(live, "997"), what="the 997")
    assert "AK9*R*1*1*0*5~" in functional
    assert live.rows("orders") == []


def test_a_partly_bad_interchange_loads_what_is_good(site: Site) -> None:
    load_and_answer(site, a=edi_samples.edifact(ORDER, BAD))
    (line,) = site.ledger()
    assert (line["status"], line["records"], line["rejected"]) == ("partial", 2, 1)
    report = site.report("a.edi", "orders")
    (error,) = report["errors"]
    assert error["reason"] == "message 2, QTY (segment 7), element 1.2: 'x' is not a number, its decimal mark is ."
    assert (error["record"], error["pointer"], error["line"], error["column"]) == (1, "/1", 20, 1)
    assert error["value"].startswith("QTY+21:x:PCE'")
    assert "control reference of its own" in report["what_next"]
    (contrl,) = answers(site, "contrl")
    assert "UCM+1+ORDERS:D:96A:UN+7'UCM+2+ORDERS:D:96A:UN+4'UCS+7'UCD+12+2:2'" in contrl
    assert [row["order_number"] for row in site.rows("orders")] == ["PO-1"]
    mended = (site.rejected / "orders" / "a.edi.rejected.edi").read_text()
    assert mended.count("UNH+") == 1
    load(site, mended=with_reference(mended, "REF2").replace("21:x", "21:5"))
    assert [row["order_number"] for row in site.rows("orders")] == ["PO-1", "PO-3"]


def test_what_the_record_model_rejects_is_told_with_its_field(site: Site) -> None:
    body = replaced(ORDER, "UNS", "UNS+S", "MOA+79:99.00")
    load(site, a=edi_samples.edifact(body))
    (error,) = site.report("a.edi", "orders")["errors"]
    assert error["reason"] == "the stated total 99.00 is not the 25.00 of its lines"
    assert (error["pointer"], error["line"]) == ("/0", 3)
    body = replaced(ORDER, "QTY", "QTY+21:1.0000001:PCE")
    load_and_answer(site, b=edi_samples.edifact(body))
    (error,) = site.report("b.edi", "orders")["errors"]
    assert (error["pointer"], error["value"]) == ("/0/lines/0/quantity", "1.0000001")
    assert "UCM+1+ORDERS:D:96A:UN+4+12'" in answers(site, "contrl")[-1]


def test_a_repeated_control_reference_is_rejected_with_the_first_one(site: Site) -> None:
    text = edi_samples.edifact()
    load(site, a=text)
    load(site, again=text)
    load_and_answer(site, other=text.replace("PO-1", "PO-9"))
    assert statuses(site) == ["loaded", "duplicate", "rejected"]
    first, _, other = site.ledger()
    assert other["error"] == f"BUYER used the control reference REF1 before, in #{first['id']}"
    assert [row["order_number"] for row in site.rows("orders")] == ["PO-1"]
    accepted, rejected = answers(site, "contrl")
    assert "+7'" in accepted
    assert "UCI+REF1+BUYER:ZZ+SELLER:ZZ+4+26+UNB+6'" in rejected


def test_one_group_of_files_may_hold_a_repeat(live: Site) -> None:
    for name, number in (("a.x12", "PO-1"), ("b.x12", "PO-2"), ("c.x12", "PO-3")):
        live.drop(name, edi_samples.x12().replace("PO-1", number), flow="orders")
    assert sorted(line["status"] for line in live.settled(3)) == ["loaded", "rejected", "rejected"]
    eventually(lambda: len(answers(live, "997")) == 3, what="an answer to each")


def test_a_repeat_in_the_group_does_not_count_rejections_of_the_database_twice(site: Site) -> None:
    def order(number: str, reference: str, *more: str) -> str:
        body = replaced(replaced(ORDER, "BGM", f"BGM+220+{number}+9"), "QTY", *more, "QTY+21:10:PCE")
        return with_reference(edi_samples.edifact(body), reference)

    load(site, a=order("PO-1", "REFA", "PIA+1+OURS:S\0"), b=order("PO-2", "REFB"), c=order("PO-3", "REFB"))
    a, b, c = site.ledger()
    assert (a["status"], a["records"], a["inserted"], a["rejected"]) == ("rejected", 1, 0, 1)
    assert (b["status"], c["status"]) == ("loaded", "rejected")
    assert c["error"] == f"BUYER used the control reference REFB before, in #{b['id']}"
    load(site, mended=order("PO-1", "REFA"))
    assert [row["order_number"] for row in site.rows("orders")] == ["PO-1", "PO-2"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (edi_samples.edifact(unb="UNOC:3+BUYER:ZZ+SELLER:ZZ+260131:0900+REF1++++++1"), "contrl"),
        (edi_samples.x12().replace("*0*P*>", "*0*T*>"), "997"),
    ],
)
def test_a_test_interchange_is_checked_and_acknowledged_and_loads_nothing(site: Site, text: str, answer: str) -> None:
    load_and_answer(site, a=text)
    (line,) = site.ledger()
    assert (line["status"], line["records"], line["inserted"]) == ("loaded", 1, 0)
    assert site.rows("orders") == []
    assert len(answers(site, answer)) == 1
    assert len(site.query("select 1 from tidegate.outbound_file")) == 1
    assert site.query("select 1 from tidegate.interchange") == []
    bad = text.replace("21:10:", "21:x:").replace("*10*", "*x*")
    load(site, bad=bad)
    assert site.ledger()[1]["status"] == "rejected"
    real = text.replace("++++++1", "").replace("*0*T*>", "*0*P*>")
    load(site, real=real)
    assert [row["order_number"] for row in site.rows("orders")] == ["PO-1"]


CANCEL = ("BGM+220+PO-1+1", "DTM+137:20260131:102", "NAD+BY+4012345000009::9", "CUX+2:EUR:9", "UNS+S")


def test_an_order_and_its_cancellation_in_one_group_keep_the_lines(site: Site) -> None:
    cancel = edi_samples.edifact(CANCEL, unb="UNOC:3+BUYER:ZZ+SELLER:ZZ+260201:0900+REF2")
    load_and_answer(site, a=edi_samples.edifact(), b=cancel)
    assert [row["status"] for row in site.rows("orders")] == ["cancelled"]
    assert len(site.rows("order_lines")) == 1
    assert len(answers(site, "ordrsp")) == 1
    assert len(answers(site, "BUYER")) == 1


def test_orders_and_their_cancellations_in_one_file_keep_their_lines(site: Site) -> None:
    bodies = [[part.replace("PO-1", number) for part in body] for number in "ABC" for body in (ORDER, CANCEL)]
    load(site, a=edi_samples.edifact(*bodies))
    (line,) = site.ledger()
    assert (line["inserted"], line["updated"], line["stale"]) == (3, 3, 0)
    assert {row["status"] for row in site.rows("orders")} == {"cancelled"}
    assert [row["order_number"] for row in site.rows("order_lines")] == ["A", "B", "C"]


def test_a_cancellation_of_an_order_that_never_came_is_answered_all_the_same(site: Site) -> None:
    load_and_answer(site, a=edi_samples.edifact(CANCEL))
    assert [(row["status"], row["outbound_error"]) for row in site.rows("orders")] == [("cancelled", None)]
    assert len(answers(site, "ordrsp")) == 1
    assert answers(site, "BUYER") == []


@pytest.mark.parametrize("order", ["ORC", "CRO", "RCO", "OCR"])
def test_within_a_minute_a_replacement_counts_more_than_the_order_and_a_cancellation_most(
    site: Site, order: str
) -> None:
    replacement = replaced(replaced(ORDER, "BGM", "BGM+220+PO-1+5"), "QTY", "QTY+21:7:PCE")
    bodies = {"O": ORDER, "R": replacement, "C": (*CANCEL,)}
    for number, kind in enumerate(order):
        load(site, **{kind: with_reference(edi_samples.edifact(bodies[kind]), f"REF{number}")})
    assert [row["status"] for row in site.rows("orders")] == ["cancelled"]


def test_a_replacement_stays_when_the_order_of_the_same_minute_comes_late(site: Site) -> None:
    replacement = replaced(replaced(ORDER, "BGM", "BGM+220+PO-1+5"), "QTY", "QTY+21:7:PCE")
    load(site, b=with_reference(edi_samples.edifact(replacement), "REF2"))
    load(site, a=edi_samples.edifact())
    assert [row["quantity"] for row in site.rows("order_lines")] == [7]


def test_a_rejected_interchange_may_come_again_under_its_reference(site: Site) -> None:
    load(site, a=edi_samples.edifact(unz="UNZ+9+REF1"))
    load(site, b=edi_samples.edifact())
    assert statuses(site) == ["rejected", "loaded"]


def test_the_same_file_can_be_loaded_again_by_force(live: Site) -> None:
    live.drop("a.edi", edi_samples.edifact(), flow="orders")
    (line,) = live.settled(1)
    live.query("delete from orders returning 1")
    live.call("retry", "--force", str(line["id"]))
    assert live.settled(2)[1]["status"] == "loaded"
    assert [row["order_number"] for row in live.rows("orders")] == ["PO-1"]
    live.drop("other.edi", edi_samples.edifact(SECOND), flow="orders")
    third = live.settled(3)[2]
    assert (third["status"], third["error"]) == (
        "rejected",
        f"BUYER used the control reference REF1 before, in #{live.ledger()[1]['id']}",
    )


def test_an_acknowledgement_is_recorded_and_never_answered(live: Site) -> None:
    live.drop("ack.edi", edi_samples.edifact(["UCI+7+SELLER+BUYER+4"], kind="CONTRL:D:3:UN"))
    (line,) = live.settled(1)
    assert (line["flow"], line["status"], line["records"]) == ("orders", "loaded", 0)
    live.drop("ack.x12", edi_samples.x12(["AK1*PR*1", "AK9*A*1*1*1"], kind="997", functional_id="FA"), flow="orders")
    live.settled(2)
    assert live.query("select 1 from tidegate.outbound_file") == []


def test_a_message_type_of_no_flow_is_rejected(live: Site) -> None:
    live.drop("a.txt", edi_samples.edifact(kind="INVOIC:D:96A:UN"))
    (line,) = live.settled(1)
    assert (line["flow"], line["status"]) == (None, "rejected")
    assert line["error"] == "neither its name nor its message type INVOIC tells the flow"


def test_a_compressed_file_in_another_character_set(site: Site) -> None:
    body = replaced(ORDER, "NAD", "NAD+BY+4012345000009::9++Märkte")
    load_and_answer(site, a=gzip.compress(edi_samples.edifact(body).encode("latin-1")))
    assert site.rows("orders")[0]["buyer"]["name"] == "Märkte"
    assert "++Märkte'" in answers(site, "ordrsp")[0]


def test_a_large_interchange_streams_past_the_small_ones(site: Site) -> None:
    bodies = [[f"BGM+220+PO-{number}+9", *ORDER[1:], "FTX+AAI+++" + 30_000 * "x"] for number in range(40)]
    text = edi_samples.edifact(*bodies)
    assert len(text) > 1 << 20
    load(site, a=text)
    (line,) = site.ledger()
    assert (line["status"], line["inserted"]) == ("loaded", 40)
    load_and_answer(site, b=text.replace("PO-", "PQ-"))
    assert statuses(site) == ["loaded", "rejected"]
    assert len(answers(site, "contrl")) == 2


def test_a_changed_line_is_told_to_the_partner(live: Site) -> None:
    live.drop("a.x12", edi_samples.x12(), flow="orders")
    eventually(lambda: answers(live, "855"), what="the 855")
    eventually(lambda: not live.query("select 1 from orders where not is_synced"), what="the mark")
    live.query("update order_lines set quantity = 4 returning 1")
    eventually(lambda: len(answers(live, "855")) == 2, what="a second one")
    assert "ACK*IQ*4*EA~" in answers(live, "855")[1]


@pytest.mark.parametrize(("first", "then", "status"), [("REF1", "REF2", "cancelled"), ("REF2", "REF1", "cancelled")])
def test_a_cancellation_cancels_and_keeps_the_lines(site: Site, first: str, then: str, status: str) -> None:
    cancel = ["BGM+220+PO-1+1", "DTM+137:20260201:102", "NAD+BY+4012345000009::9", "CUX+2:EUR:9", "UNS+S"]
    later = edi_samples.edifact(cancel, unb=f"UNOC:3+BUYER:ZZ+SELLER:ZZ+260201:0900+{then}")
    files = {"a": with_reference(edi_samples.edifact(), first), "b": later}
    for name in "ab" if first == "REF1" else "ba":
        load(site, **{name: files[name]})
    (order,) = site.rows("orders")
    assert order["status"] == status
    assert len(site.rows("order_lines")) == (1 if first == "REF1" else 0)


def test_an_order_whose_answer_cannot_be_written_is_quarantined(site: Site) -> None:
    load_and_answer(site, a=edi_samples.edifact())
    site.query("update orders set edi = jsonb_set(edi, '{syntax}', '\"UNOZ:3\"') returning 1")
    site.call("emit", expect=None)
    (order,) = site.rows("orders")
    assert order["outbound_error"] == "flow orders cannot write it: KeyError: 'UNOZ'"
    assert len(answers(site, "ordrsp")) == 1


def test_x12_under_a_control_number_of_another_receiver_is_no_repeat(site: Site) -> None:
    load(site, a=edi_samples.x12())
    other = edi_samples.x12(replaced(ORDER_X12, "BEG", "BEG*00*SA*PO-2**20260131"))
    load(site, b=other.replace("SELLER         ", "BRANCH         ", 1))
    assert statuses(site) == ["loaded", "loaded"]
