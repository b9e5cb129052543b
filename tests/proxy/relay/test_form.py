"""Which model an upload names, whatever else is in its form."""

from __future__ import annotations

from time import thread_time

import pytest

from proxy.relay.form import boundary_of, model_of_form
from tests.scans import in_one_go

FILE = b'Content-Disposition: form-data; name="file"; filename="model"'
MODEL = b'Content-Disposition: form-data; name="model"'
WINDOW = 1024 * 1024


def form(*parts: tuple[bytes, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + end


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=b", b"b"),
        (b'Multipart/Form-Data ;charset=utf-8; Boundary="a=b"; x=y', b"a=b"),
        (b"multipart/form-data; boundary=b; charset=utf-8", b"b"),
        (b"multipart/form-data", None),
        (b"multipart/mixed; boundary=b", None),
        (b"application/x-www-form-urlencoded", None),
    ],
)
def test_the_boundary_is_that_of_the_content_type(
    content_type: bytes, boundary: bytes | None
) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form((MODEL, b"two"), (FILE, b"RIFF")), "two"),
        (form((FILE, b"RIFF"), (MODEL, b"two")), "two"),
        (form((MODEL, b"two"), (MODEL, b"one")), "two"),
        (form((b"content-disposition:form-data; NAME=model", b"two")), "two"),
        (form((b'Content-Type: text/plain\r\n%b; x="y"' % MODEL, b"two")), "two"),
        (form((MODEL, "zwö".encode())), "zwö"),
        (form((MODEL, b"\xff")), "\ufffd"),
        (b"a preamble\r\n" + form((MODEL, b"two")), "two"),
        # Not the boundary, though it looks like it.
        (form((FILE, b"\r\n--\r\n--a\r\n-b\r\n--\rb\n--b x--b\r\n\r\n--"), (MODEL, b"two")), "two"),
        (form((FILE, b"\r\n%b\r\n\r\nsix\r\n" % MODEL), (MODEL, b"two")), "two"),
        # There is none.
        (form((FILE, b"RIFF")), None),
        (form((MODEL, b"")), None),
        (form((MODEL + b'; filename="a"', b"two")), None),
        (form((b'Content-Disposition: form-data; name="models"', b"two")), None),
        (form((MODEL, b"x" * 1025)), None),
        (form((MODEL, b"x" * 1025), (MODEL, b"two")), "two"),
        (form((FILE, b"RIFF"), end=b"--b--\r\n" + form((MODEL, b"two"))), None),
        (form(*[(FILE, b"")] * 2_000, (MODEL, b"two")), None),
        # Broken.
        (b"", None),
        (b"--b", None),
        (b"--b\r\n" + MODEL, None),
        (b"--b\r\n" + MODEL + b"\r\n\r\ntwo", None),
        (b"--b\r\n" + MODEL + b"\n\ntwo\n--b--", None),
        (b"--b\r\nX: " + b"x" * 10_000 + b"\r\n\r\n\r\n" + form((MODEL, b"two")), None),
        (form((MODEL, b"two")).replace(b"--b", b"--c"), None),
    ],
)
def test_the_model_is_that_of_the_field(body: bytes, model: str | None) -> None:
    assert in_one_go(model_of_form(body, b"b")) == model
    assert in_one_go(model_of_form(bytearray(body), b"b")) == model


@pytest.mark.parametrize("surplus", range(-8, 8))
def test_a_delimiter_is_found_wherever_the_search_is_cut(surplus: int) -> None:
    body = form((FILE, b"x" * (2 * WINDOW + surplus)), (MODEL, b"two"))
    assert in_one_go(model_of_form(body, b"b")) == "two"


@pytest.mark.parametrize(
    "body",
    [
        form((FILE, b"\r\n--" * 4 * WINDOW)),
        form((FILE, b"\r\n--" + b"-" * 16 * WINDOW)),
        form(*[(FILE, b"")] * 100_000),
        form(*[(b"content-disposition:form-data;" * 270, b"")] * 1_000),
        form(*[(b"\ncontent-disposition:form-data;" * 260, b"")] * 1_000),
        form(*[(b"content-disposition:" + b" " * 8_000, b"")] * 1_000),
    ],
    ids=["beginnings", "dashes", "parts", "heads", "lines", "blanks"],
)
def test_a_form_of_any_kind_holds_up_nobody(body: bytes) -> None:
    text, longest = bytearray(body), 0.0
    for boundary in (b"b", b"-" * 69 + b"b"):
        before = thread_time()
        for _ in model_of_form(text, boundary):
            longest, before = max(longest, thread_time() - before), thread_time()
    assert longest < 0.05
