"""If these fail, an ONNX Runtime that is too old for the kernels crashes the process."""

import ctypes
import shutil
from pathlib import Path

import onnxruntime
import pytest

GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
GET_VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)
CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)

STATUS = 4711
VERSION = ctypes.create_string_buffer(b"1.16.3")


class ApiBase(ctypes.Structure):
    """OrtApiBase of ONNX Runtime's C API."""

    _fields_ = (("api", GET_API), ("version", GET_VERSION))


def version() -> int:
    return ctypes.addressof(VERSION)


@pytest.fixture
def fresh(best: Path, tmp_path: Path) -> Path:
    """A library that has not been registered yet."""
    return Path(shutil.copy(best, tmp_path / "kernels.so"))


def register(library: Path, base: ApiBase | None) -> int | None:
    function = ctypes.CDLL(str(library)).RegisterCustomOps
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_void_p
    found: int | None = function(None, ctypes.byref(base) if base else None)
    return found


def test_without_an_api_nothing_is_registered(fresh: Path) -> None:
    assert register(fresh, None) is None
    assert register(fresh, ApiBase()) is None
    assert register(fresh, ApiBase(GET_API(lambda number: None), GET_VERSION(version))) is None
    onnxruntime.SessionOptions().register_custom_ops_library(str(fresh))


def test_an_older_onnx_runtime_is_refused_with_the_version_that_is_needed(fresh: Path) -> None:
    told: list[tuple[int, bytes]] = []

    def create_status(code: int, message: bytes) -> int:
        told.append((code, message))
        return STATUS

    create = CREATE_STATUS(create_status)
    table = (ctypes.c_void_p * 100)(ctypes.cast(create, ctypes.c_void_p).value)
    asked: list[int] = []

    def get_api(number: int) -> int | None:
        asked.append(number)
        return ctypes.addressof(table) if number <= 16 else None

    base = ApiBase(GET_API(get_api), GET_VERSION(version))
    assert register(fresh, base) == STATUS
    assert asked == [17, 1]
    assert told == [
        (
            2,
            b"ONNX Runtime 1.16.3 has no version 17 of its C interface, which the kernels need; "
            b"install ONNX Runtime 1.17 or later",
        )
    ]
    onnxruntime.SessionOptions().register_custom_ops_library(str(fresh))
