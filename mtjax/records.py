"""The record format: the one contract between `preprocessing` (writer) and `mtjax.data` (reader).

A record is a serialised `tf.train.Example` inside a TFRecord file, so TensorFlow and TFDS read it too; neither is needed
here. Every tensor is one bytes feature in little-endian C order (a float list costs four times the time to parse).
"""

import dataclasses
import functools
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mtjax.command.errors import InputError

SCHEMA_VERSION = 1
CLIP_KEY = "clip"  # every record carries the id of its clip
HEADER = struct.Struct("<QI")  # payload length, masked CRC of the length
FOOTER = struct.Struct("<I")  # masked CRC of the payload
MAX_RECORD_BYTES = 1 << 31  # a corrupt length must never become an allocation


SCALARS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32")


class RecordError(InputError):
    """A value or a record does not match its schema."""


class CorruptRecord(RecordError):
    """The bytes on disk are damaged: names the shard, the record and the offset."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One field of a record.

    Attributes:
      dtype: a NumPy dtype name, `"str"` (one UTF-8 string) or `"jpeg"` (a list of encoded images).
      shape: sizes; -1 is allowed for the first dimension only and means "ragged over clips". `()` is a scalar.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(d) for d in self.shape))
        if self.dtype in ("str", "jpeg"):
            return
        try:
            kind = np.dtype(self.dtype).kind
        except TypeError:
            kind = ""
        if kind not in ("b", "i", "u", "f"):
            raise RecordError(f"dtype {self.dtype!r} is not a number, 'str' or 'jpeg'")
        if not self.shape and self.dtype not in SCALARS:
            raise RecordError(
                f"a scalar is one of {SCALARS}, not {self.dtype!r}: tf.train.Example holds no other exactly"
            )
        if any(d < 0 for d in self.shape[1:]) or min(self.shape, default=0) < -1:
            raise RecordError(f"only the first dimension may be ragged (-1), got shape {self.shape}")

    @property
    def ragged(self) -> bool:
        return bool(self.shape) and self.shape[0] == -1


Schema = Mapping[str, Feature]


def schema_to_json(schema: Schema) -> dict[str, Any]:
    return {name: {"dtype": f.dtype, "shape": list(f.shape)} for name, f in schema.items()}


def schema_from_json(obj: Mapping[str, Any]) -> dict[str, Feature]:
    return {name: Feature(f["dtype"], tuple(f["shape"])) for name, f in obj.items()}


@functools.cache
def _example_class():
    """`tf.train.Example` built in a private descriptor pool: no clash with an imported TensorFlow or TFDS."""
    file = descriptor_pb2.FileDescriptorProto(name="mtjax/example.proto", package="tensorflow", syntax="proto3")
    field_type = descriptor_pb2.FieldDescriptorProto

    def add_field(message, name, number, kind, repeated=False, message_type=None, oneof=None):
        field = message.field.add()
        field.name, field.number, field.type = name, number, kind
        field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
        if message_type:
            field.type_name = f".tensorflow.{message_type}"
        if kind in (field_type.TYPE_FLOAT, field_type.TYPE_INT64):
            field.options.packed = True
        if oneof is not None:
            field.oneof_index = oneof

    lists = {"BytesList": field_type.TYPE_BYTES, "FloatList": field_type.TYPE_FLOAT, "Int64List": field_type.TYPE_INT64}
    for name, kind in lists.items():
        message = file.message_type.add()
        message.name = name
        add_field(message, "value", 1, kind, repeated=True)
    feature = file.message_type.add()
    feature.name = "Feature"
    feature.oneof_decl.add().name = "kind"
    for number, (name, kind) in enumerate(zip(("bytes_list", "float_list", "int64_list"), lists, strict=True), 1):
        add_field(feature, name, number, field_type.TYPE_MESSAGE, message_type=kind, oneof=0)
    features = file.message_type.add()
    features.name = "Features"
    entry = features.nested_type.add()
    entry.name = "FeatureEntry"
    entry.options.map_entry = True
    add_field(entry, "key", 1, field_type.TYPE_STRING)
    add_field(entry, "value", 2, field_type.TYPE_MESSAGE, message_type="Feature")
    add_field(features, "feature", 1, field_type.TYPE_MESSAGE, repeated=True, message_type="Features.FeatureEntry")
    example = file.message_type.add()
    example.name = "Example"
    add_field(example, "features", 1, field_type.TYPE_MESSAGE, message_type="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def encode(schema: Schema, clip_id: str, values: Mapping[str, Any]) -> bytes:
    """Serialises one clip's values.

    Raises:
      RecordError: a field is missing, unknown, non-finite, or has another dtype or shape than the schema says.
    """
    if set(values) != set(schema):
        missing, unknown = sorted(set(schema) - set(values)), sorted(set(values) - set(schema))
        raise RecordError(f"clip {clip_id!r}: fields missing {missing}, fields not in the schema {unknown}")
    example = _example_class()()
    example.features.feature[CLIP_KEY].bytes_list.value.append(clip_id.encode())
    for name, feature in schema.items():
        proto, value = example.features.feature[name], values[name]
        if feature.dtype == "str":
            proto.bytes_list.value.append(value.encode())
        elif feature.dtype == "jpeg":
            proto.bytes_list.value.extend(value)
        else:
            array = _checked(clip_id, name, feature, value)
            if feature.shape:
                proto.bytes_list.value.append(array.tobytes())
            elif array.dtype.kind == "f":
                proto.float_list.value.append(float(array))
            else:
                proto.int64_list.value.append(int(array))
    return example.SerializeToString(deterministic=True)


def _checked(clip_id: str, name: str, feature: Feature, value) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != np.dtype(feature.dtype):
        raise RecordError(
            f"clip {clip_id!r}, field {name!r}: expected {feature.dtype}, found {array.dtype}; cast it first"
        )
    expected = feature.shape
    if array.ndim != len(expected) or any(e not in (-1, d) for e, d in zip(expected, array.shape, strict=True)):
        raise RecordError(f"clip {clip_id!r}, field {name!r}: expected shape {expected}, found {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RecordError(
            f"clip {clip_id!r}, field {name!r}: NaN or inf is never stored; store a validity mask instead"
        )
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)


def decode(schema: Schema, data: bytes, where: str = "record") -> tuple[str, dict[str, Any]]:
    """Parses a record into its clip id and values; tensors are read-only views of the message's bytes, images a sequence.

    Raises:
      RecordError: `where`, the field, what was expected and what was found.
    """
    try:
        features = _example_class().FromString(data).features.feature
    except DecodeError as e:
        raise RecordError(f"{where}: not a tf.train.Example ({e})") from None
    if CLIP_KEY not in features:
        raise RecordError(f"{where}: no {CLIP_KEY!r} field; was this file written by mtjax?")
    values = {}
    for name, feature in schema.items():
        if name not in features:
            raise RecordError(f"{where}: field {name!r} is missing; found {sorted(features)}")
        values[name] = _decode_feature(features[name], feature, where, name)
    return _decode_text(features[CLIP_KEY], where, CLIP_KEY), values


def entries(schema: Schema, values: Mapping[str, Any]) -> list[int]:
    """How many entries a record has of each field of varying length, in the schema's order."""
    return [len(values[name]) for name, feature in schema.items() if feature.ragged]


def _decode_text(proto, where: str, name: str) -> str:
    try:
        (text,) = proto.bytes_list.value
        return text.decode()
    except ValueError:  # none, several, or not UTF-8
        raise RecordError(f"{where}, field {name!r}: expected one UTF-8 string") from None


def _decode_feature(proto, feature: Feature, where: str, name: str):
    if feature.dtype == "jpeg":
        return proto.bytes_list.value  # an image becomes bytes when it is asked for: a clip shows few of a video's
    if feature.dtype == "str":
        return _decode_text(proto, where, name)
    dtype = np.dtype(feature.dtype)
    try:
        if not feature.shape:
            (scalar,) = proto.float_list.value if dtype.kind == "f" else proto.int64_list.value
            return dtype.type(scalar)
        (raw,) = proto.bytes_list.value
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(feature.shape)
    except (ValueError, OverflowError):
        found = {k.name: len(v.value) for k, v in proto.ListFields()}
        sizes = [len(raw) for raw in proto.bytes_list.value]
        raise RecordError(
            f"{where}, field {name!r}: expected {dtype} of shape {feature.shape}, found {found} values of {sizes} bytes"
        ) from None


def masked_crc(data) -> int:
    """CRC32C with TFRecord's rotation and offset."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """One payload in TFRecord framing: length, CRC of the length, payload, CRC of the payload."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, FOOTER.pack(masked_crc(length)), payload, FOOTER.pack(masked_crc(payload))))


def check_payload(payload: bytes, footer: bytes, length: int, where: str) -> None:
    """Verifies `length` bytes of payload by the CRC behind it, as both were read from disk.

    Raises:
      CorruptRecord: fewer bytes than expected, or the checksum differs.
    """
    if len(payload) != length or len(footer) != FOOTER.size:
        raise CorruptRecord(f"{where}: the file ends inside this record")
    if FOOTER.unpack(footer)[0] != masked_crc(payload):
        raise CorruptRecord(f"{where}: checksum of the data differs; restore the file or extract this shard again")


def scan(path: str | os.PathLike, payloads: bool = True) -> Iterator[tuple[int, int, int, bytes]]:
    """Walks a TFRecord file: yields (payload offset, payload length, stored data CRC, payload or b"").

    With `payloads=False` only the headers are read and only the lengths are verified.

    Raises:
      CorruptRecord: bad length, bad CRC or truncation; names file, record number and byte offset.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        position = number = 0
        while position < size:
            where = f"{path}: record {number} at byte {position}"
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                raise CorruptRecord(f"{where}: the file ends inside a header")
            length, crc = HEADER.unpack(header)
            if masked_crc(header[:8]) != crc or length > MAX_RECORD_BYTES:
                raise CorruptRecord(f"{where}: checksum of the length differs; the file is damaged from here on")
            if position + HEADER.size + length + FOOTER.size > size:
                raise CorruptRecord(f"{where}: the file ends inside this record")
            payload = b""
            if payloads:
                payload = file.read(length)
            else:
                file.seek(length, os.SEEK_CUR)
            footer = file.read(FOOTER.size)
            if payloads:
                check_payload(payload, footer, length, where)
            data_crc = FOOTER.unpack(footer)[0]
            yield position + HEADER.size, length, data_crc, payload
            position += HEADER.size + length + FOOTER.size
            number += 1
