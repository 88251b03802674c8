"""The record format: round trips, refusals, and damage."""

import struct

import numpy as np
import pytest

from mtjax import records
from mtjax.records import CorruptRecord, Feature, RecordError

SCHEMA = {
    "tracks": Feature("float16", (-1, 4, 3)),
    "labels": Feature("int64", (2,)),
    "seen": Feature("bool", (3,)),
    "note": Feature("str"),
    "images": Feature("jpeg"),
}
VALUES = {
    "tracks": np.arange(24, dtype=np.float16).reshape(2, 4, 3),
    "labels": np.array([-5, 1 << 60]),
    "seen": np.array([True, False, True]),
    "note": "Füße 走る [x]",
    "images": [b"\xff\xd8\xff1", b"\xff\xd8\xff2"],
}


def assert_same(found, expected=VALUES):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype
        else:
            assert found[name] == value


def test_round_trip_keeps_every_kind_of_field():
    clip, values = records.decode(SCHEMA, records.encode(SCHEMA, "a/b #1", VALUES))
    assert clip == "a/b #1"
    assert_same(values)


def test_ragged_tensor_may_be_empty():
    schema = {"tracks": Feature("float32", (-1, 4, 3))}
    data = records.encode(schema, "c", {"tracks": np.zeros((0, 4, 3), np.float32)})
    assert records.decode(schema, data)[1]["tracks"].shape == (0, 4, 3)


# Reported: ascontiguousarray turns a scalar into an array of one, which NumPy 2.4 does not turn into a number.
@pytest.mark.parametrize("dtype, value", [("int64", 7), ("float32", 0.5), ("bool", True), ("int8", -3)])
def test_scalars_round_trip(dtype, value):
    schema = {"s": Feature(dtype)}
    found = records.decode(schema, records.encode(schema, "c", {"s": np.dtype(dtype).type(value)}))[1]["s"]
    assert found == value and found.dtype == np.dtype(dtype)


def test_encoding_is_deterministic_and_independent_of_memory_order():
    fortran = VALUES | {"tracks": np.asfortranarray(VALUES["tracks"])}
    assert not fortran["tracks"].flags.c_contiguous
    assert records.encode(SCHEMA, "c", fortran) == records.encode(SCHEMA, "c", dict(reversed(VALUES.items())))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tracks": np.zeros((2, 4, 3), np.float32)}, "'tracks': expected float16, found float32"),
        ({"tracks": np.zeros((2, 5, 3), np.float16)}, r"'tracks': expected shape \(-1, 4, 3\), found \(2, 5, 3\)"),
        ({"tracks": np.full((1, 4, 3), np.nan, np.float16)}, "'tracks': NaN or inf"),
        ({"tracks": np.full((1, 4, 3), np.inf, np.float16)}, "'tracks': NaN or inf"),
        ({"labels": np.zeros(3, np.int64)}, r"'labels': expected shape \(2,\)"),
        ({"extra": np.zeros(3)}, r"not in the schema \['extra'\]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(RecordError, match=message):
        records.encode(SCHEMA, "c", VALUES | change)


def test_missing_fields_are_named():
    with pytest.raises(RecordError, match=r"clip 'c': fields missing \['images', 'labels', 'seen', 'tracks'\]"):
        records.encode(SCHEMA, "c", {"note": "x"})


def test_ragged_is_only_for_the_first_dimension():
    with pytest.raises(RecordError, match="first dimension"):
        Feature("float32", (3, -1))
    with pytest.raises(RecordError, match="floaty"):
        Feature("floaty")
    with pytest.raises(RecordError, match="object"):
        Feature("object", (2,))
    with pytest.raises(RecordError, match="float64"):
        Feature("float64")


def test_decoding_names_the_field_that_is_missing_or_of_another_size():
    data = records.encode(SCHEMA, "c", VALUES)
    with pytest.raises(RecordError, match=r"here: field 'pose' is missing; found .*'tracks'"):
        records.decode(SCHEMA | {"pose": Feature("float32", (1,))}, data, "here")
    with pytest.raises(RecordError, match="here, field 'tracks': expected float16 of shape"):
        records.decode(SCHEMA | {"tracks": Feature("float16", (-1, 5, 3))}, data, "here")
    with pytest.raises(RecordError, match="here, field 'labels': expected float64"):
        records.decode(SCHEMA | {"labels": Feature("float64", (3,))}, data, "here")
    with pytest.raises(RecordError, match=r"not a tf\.train\.Example"):
        records.decode(SCHEMA, b"\xff\xff\xff", "here")
    with pytest.raises(RecordError, match="no 'clip' field"):
        records.decode(SCHEMA, b"", "here")


def test_schema_survives_json():
    assert records.schema_from_json(records.schema_to_json(SCHEMA)) == SCHEMA


def test_bytes_are_those_of_the_generated_example_proto():
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.proto import tf_example_pb2

    data = records.encode(SCHEMA, "clip é", VALUES)
    example = tf_example_pb2.Example.FromString(data)
    assert example.features.feature["clip"].bytes_list.value[0].decode() == "clip é"
    assert example.features.feature["tracks"].bytes_list.value[0] == VALUES["tracks"].tobytes()
    assert list(example.features.feature["images"].bytes_list.value) == VALUES["images"]
    assert example.SerializeToString(deterministic=True) == data
    assert_same(records.decode(SCHEMA, example.SerializeToString())[1])


def write_shard(path, payloads=(b"first", b"", b"third record")):
    path.write_bytes(b"".join(map(records.frame, payloads)))
    return path


def test_scan_yields_places_and_payloads(tmp_path):
    path = write_shard(tmp_path / "s")
    found = list(records.scan(path))
    assert [p for *_, p in found] == [b"first", b"", b"third record"]
    data = path.read_bytes()
    for offset, length, crc, payload in found:
        assert data[offset : offset + length] == payload and crc == records.masked_crc(payload)
    headers = list(records.scan(path, payloads=False))
    assert [x[:3] for x in headers] == [x[:3] for x in found] and all(x[3] == b"" for x in headers)


def test_masked_crc_is_tfrecords():
    # RFC 3720 B.4: CRC32C of 32 zero bytes is 8a9136aa; the mask is TFRecord's.
    crc = 0x8A9136AA
    assert records.masked_crc(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_an_empty_file_holds_no_records(tmp_path):
    (tmp_path / "s").write_bytes(b"")
    assert list(records.scan(tmp_path / "s")) == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d[:21] + b"\x01" + d[22:], r"record 1 at byte 21: checksum of the length"),
        (lambda d: d[:14] + b"X" + d[15:], r"record 0 at byte 0: checksum of the data"),
        (lambda d: d[:17] + b"\0\0\0\0" + d[21:], r"record 0 at byte 0: checksum of the data"),
        (lambda d: d[:-1], r"record 2 at byte 37: the file ends inside this record"),
        (lambda d: d[:25], r"record 1 at byte 21: the file ends inside a header"),
        (lambda d: d + b"junk", r"record 3 at byte 65: the file ends inside a header"),
    ],
)
def test_damage_is_named_by_record_and_byte(tmp_path, damage, message):
    path = write_shard(tmp_path / "s")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptRecord, match=message) as error:
        list(records.scan(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("length", [1 << 40, 1 << 30, (1 << 64) - 1])
def test_a_huge_length_with_a_valid_checksum_is_no_allocation(tmp_path, length):
    header = struct.pack("<Q", length)
    (tmp_path / "s").write_bytes(header + struct.pack("<I", records.masked_crc(header)) + b"tiny")
    with pytest.raises(CorruptRecord, match="record 0 at byte 0"):
        list(records.scan(tmp_path / "s"))
