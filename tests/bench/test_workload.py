"""The operations drawn from a workload, and the records that it writes."""

import struct
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slower import examples

from bench._generators import key_name
from bench._workload import KINDS, Stream, Workload
from bench.properties import Properties, read
from rfp.errors import InvalidArgument

READ, UPDATE, INSERT, READ_MODIFY_WRITE = range(4)


def workload(*names, loading=False, known=None, **given):
    return Workload(
        read(names, [f"{name.replace('__', '.')}={value}" for name, value in given.items()]),
        loading=loading,
        known=known,
    )


def fields_of(record):
    fields = []
    while record:
        (size,) = struct.unpack_from("<I", record)
        assert size <= len(record) - 4
        fields.append(record[4 : 4 + size])
        record = record[4 + size :]
    return fields


@pytest.mark.parametrize("letter", "abcdf")
def test_the_mix_of_operations_is_that_of_the_workload(letter):
    mixed = workload(letter, recordcount=100)
    stream = Stream(mixed)
    kinds = Counter(stream.draw()[0] for _ in range(20_000))
    for kind, name in enumerate(("read", "update", "insert", "readmodifywrite")):
        share = mixed.properties[name + "proportion"]
        assert abs(kinds[kind] / 20_000 - share) < 0.02
        assert share or not kinds[kind]


def test_proportions_need_not_add_up_to_one():
    stream = Stream(workload(readproportion=95, updateproportion=5))
    kinds = Counter(stream.draw()[0] for _ in range(5000))
    assert 0.03 < kinds[UPDATE] / 5000 < 0.07


def test_the_threads_of_a_load_together_insert_every_record_once():
    loading = workload(loading=True, recordcount=1000, insertstart=100, insertcount=300)
    assert loading.operations == 300
    streams = [Stream(loading, thread) for thread in range(3)]
    drawn = [stream.draw() for _ in range(100) for stream in streams]
    assert sorted(number for _, _, _, number in drawn) == list(range(100, 400))
    assert all(kind == INSERT and key == key_name(number) for kind, key, _, number in drawn)


def test_a_run_inserts_after_the_records_and_reads_acknowledged_inserts():
    running = workload("d", recordcount=50)
    stream = Stream(running)
    inserted = []
    for _ in range(3000):
        kind, _, _, number = stream.draw()
        if kind == INSERT:
            inserted.append(number)
        else:
            assert number < 50
    assert inserted == list(range(50, 50 + len(inserted)))
    for number in reversed(inserted[1:]):
        stream.acknowledge(number)
    assert running.records == 50  # the first insert is not acknowledged
    stream.acknowledge(50)
    assert running.records == 50 + len(inserted)
    assert max(stream.draw()[3] for _ in range(1000)) > 50


@settings(max_examples=examples(50), deadline=None)
@given(st.permutations(list(range(12))))
def test_acknowledgements_in_any_order_count_up_to_the_first_gap(order):
    running = workload("d", recordcount=5)
    stream = Stream(running)
    seen = set()
    for offset in order:
        stream.acknowledge(5 + offset)
        seen.add(offset)
        prefix = next(n for n in range(13) if n not in seen)
        assert running.records == 5 + prefix


def test_concurrent_acknowledgements_lose_no_record():
    running = workload("d", recordcount=1)
    numbers = list(range(1, 20_001))

    def acknowledge(mine):
        stream = Stream(running)
        for number in mine:
            stream.acknowledge(number)

    threads = [threading.Thread(target=acknowledge, args=(numbers[k::4],)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert running.records == 20_001


def test_an_acknowledgement_beyond_the_window_does_not_count_for_another_record():
    running = workload("d", recordcount=10)
    Stream(running).acknowledge(10 + (1 << 20))
    assert running.records == 10


def test_a_record_of_many_fields_has_their_lengths_and_bytes():
    stream = Stream(workload(fieldcount=3, fieldlength=20))
    record = stream.record(7)
    assert [len(field) for field in fields_of(record)] == [20, 20, 20]
    assert stream.record(7) != record  # random, unless dataintegrity


def test_a_record_of_one_field_has_only_its_bytes():
    assert len(Stream(workload(fieldcount=1, fieldlength=32)).record(7)) == 32
    assert Stream(workload(fieldcount=1, fieldlength=0)).record(7) == b""


@pytest.mark.parametrize("law", ["uniform", "zipfian"])
def test_field_lengths_follow_their_distribution(law):
    stream = Stream(
        workload(fieldcount=1, fieldlength=9, minfieldlength=4, fieldlengthdistribution=law)
    )
    lengths = Counter(len(stream.record(1)) for _ in range(6000))
    assert set(lengths) == set(range(4, 10))
    if law == "uniform":
        assert all(800 < times < 1200 for times in lengths.values())
    else:
        assert lengths[4] > 1.7 * lengths[5] > 2 * lengths[7]


def test_replacing_a_field_keeps_the_others():
    stream = Stream(workload(fieldcount=4, fieldlength=12))
    old = stream.record(3)
    new = stream.replace(old, 3, 2)
    before, after = fields_of(old), fields_of(new)
    assert before[2] != after[2]
    assert before[:2] + before[3:] == after[:2] + after[3:]


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=80))
def test_bytes_that_are_no_record_are_not_changed(data):
    stream = Stream(workload(fieldcount=3, fieldlength=10))
    try:
        fields = fields_of(data)
        valid = len(fields) == 3 and all(len(field) <= 10 for field in fields)
    except (struct.error, AssertionError):
        valid = False
    assert (stream.replace(data, 1, 0) is not None) == valid


def test_verifiable_records_depend_only_on_their_number():
    p = Properties({"dataintegrity": "true", "fieldcount": "3", "fieldlength": "21"})
    a, b = Stream(Workload(p)), Stream(Workload(p.with_(rfp__seed=99)))
    record = a.record(5)
    assert record == b.record(5) != a.record(6)
    assert a.intact(record, 5)
    assert not a.intact(record, 6)
    assert a.replace(record, 5, 1) == record


def test_a_change_of_any_byte_is_detected():
    stream = Stream(workload(dataintegrity="true", fieldcount=2, fieldlength=10))
    record = stream.record(1)
    for at in range(len(record)):
        assert not stream.intact(record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :], 1)
    assert not stream.intact(record[:-1], 1)
    assert not stream.intact(record + b"x", 1)
    assert not stream.intact(b"", 1)


def test_a_read_of_one_field_verifies_only_this_field():
    stream = Stream(
        workload(dataintegrity="true", fieldcount=2, fieldlength=10, readallfields="false")
    )
    damaged = stream.record(1)[:-1] + b"\x00"
    assert stream.intact(damaged, 1, 0)
    assert not stream.intact(damaged, 1, 1)


def test_updates_change_one_field_unless_writeallfields_is_set():
    kinds = {}
    for write_all in ("true", "false"):
        stream = Stream(
            workload(readproportion=0, updateproportion=1, writeallfields=write_all, fieldcount=5)
        )
        kinds[write_all] = {stream.draw()[2] for _ in range(500)}
    assert kinds == {"true": {-1}, "false": {0, 1, 2, 3, 4}}


def test_requests_drawn_ahead_are_repeated():
    stream = Stream(workload("c", recordcount=1000))
    stream.predraw(10)
    first = [stream.draw() for _ in range(10)]
    assert [stream.draw() for _ in range(10)] == first
    assert len(set(first)) > 3


@pytest.mark.parametrize("given", [{"requestdistribution": "latest"}, {"insertproportion": 0.1}])
def test_requests_that_depend_on_inserts_are_not_drawn_ahead(given):
    with pytest.raises(InvalidArgument, match="draw requests ahead"):
        Stream(workload("b", **given)).predraw(10)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"recordcount": 10, "insertstart": 5, "insertcount": 6}, "insertstart"),
        ({"readproportion": 0, "updateproportion": 0}, "proportions"),
        ({"zeropadding": 47}, "zeropadding"),
        ({"fieldlength": "1G"}, "bytes"),
        ({"dataintegrity": "true", "fieldlengthdistribution": "uniform"}, "constant"),
    ],
)
def test_contradictory_properties_are_refused(given, reason):
    with pytest.raises(InvalidArgument, match=reason):
        workload(**given)


@pytest.mark.parametrize(
    ("given", "least", "most", "mean"),
    [
        ({"maxscanlength": 100}, 1, 100, (48, 53)),
        ({"minscanlength": 20, "maxscanlength": 20}, 20, 20, (20, 20)),
        ({"maxscanlength": 100, "scanlengthdistribution": "zipfian"}, 1, 100, (15, 25)),
    ],
)
def test_the_lengths_of_scans_follow_their_properties(given, least, most, mean):
    stream = Stream(workload("e", **given))
    drawn = [stream.draw() for _ in range(20_000)]
    lengths = [field for kind, _, field, _ in drawn if KINDS[kind] == "SCAN"]
    assert 0.94 < len(lengths) / len(drawn) < 0.96
    assert {KINDS[kind] for kind, *_ in drawn} == {"SCAN", "INSERT"}
    assert (min(lengths), max(lengths)) == (least, most)
    assert mean[0] <= sum(lengths) / len(lengths) <= mean[1]


def test_kinds_have_the_names_of_ycsb():
    assert KINDS == ("READ", "UPDATE", "INSERT", "READ-MODIFY-WRITE", "SCAN")
