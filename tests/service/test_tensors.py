"""If this breaks, tensors are misread, or bad ones get a 5xx or an error that does not say what to change."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.tensors import HEADER_LENGTH
from tests.service.infer import INFER, KSERVE_ID, announced, infer, outputs, packed, refused, send, tensor, tensors
from tests.service.serving import Served
from tests.service.test_routes import QUESTION

LETTERS = st.characters(codec="utf-8", exclude_characters="\0")


def test_the_default_call_of_tritonclient(served: Served) -> None:
    """What tritonclient 2.73 sends for infer("topic", [InferInput("text", [2], "BYTES")], request_id="r1")."""
    head = (
        b'{"id":"r1","inputs":[{"name":"text","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":15}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    assert len(head) == 147
    response = send(served, head + packed("héllo", "b"), {HEADER_LENGTH: "147"})
    assert response.headers["Content-Type"] == "application/octet-stream"
    about = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])
    assert about["id"] == "r1" and all(output["shape"] == [2] for output in about["outputs"])
    found, expected = outputs(response), infer(served, "topic", tensor("héllo", "b"))
    assert found["label"] == expected["label"] and found["json"] == expected["json"]
    assert found["score"] == np.array(expected["score"], np.float32).tolist()


def test_the_mixed_call_of_tritonclient(served: Served) -> None:
    """Input in JSON, one output in each form, parameters of the task beside reserved ones."""
    body = (
        b'{"inputs":[{"name":"text","shape":[2],"datatype":"BYTES","data":["h\\u00E9llo","b"]}],'
        b'"outputs":[{"name":"label","parameters":{"binary_data":false}},{"name":"score","parameters":{"binary_data":true}}],'
        b'"parameters":{"priority":1,"timeout":30000000,"top_k":2}}'
    )
    response = send(served, body, {})
    head = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])
    assert [output.get("parameters") for output in head["outputs"]] == [None, {"binary_data_size": 8}]
    found, expected = outputs(response), infer(served, "topic", tensor("héllo", "b"))
    assert found["label"] == expected["label"] and found["score"] == np.array(expected["score"], np.float32).tolist()


def test_the_binary_call_of_kserve(served: Served) -> None:
    tail = packed("héllo", "b")
    asked = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    body, headers = announced({"id": KSERVE_ID, "model_name": "topic", "inputs": [asked]}, tail)
    response = send(served, body, headers | {"Content-Type": "application/octet-stream"})
    assert response.headers["Content-Type"] == "application/json" and HEADER_LENGTH not in response.headers
    assert outputs(response) == infer(served, "topic", tensor("héllo", "b"))


@pytest.mark.parametrize(
    ("request_says", "output_says", "binary"),
    [(None, None, False), (True, None, True), (True, False, False), (False, True, True), (None, True, True)],
)
def test_an_output_is_binary_if_it_or_the_request_says_so(
    served: Served, request_says: bool | None, output_says: bool | None, binary: bool
) -> None:
    wanted = {"name": "start", "parameters": {} if output_says is None else {"binary_data": output_says}}
    parameters = {} if request_says is None else {"binary_data_output": request_says}
    body = {"inputs": tensors("qa", QUESTION), "outputs": [wanted], "parameters": parameters}
    response = served.client.post("/v2/models/qa/infer", json=body)
    assert (HEADER_LENGTH in response.headers) == binary
    assert outputs(response)["start"] == infer(served, "qa", *tensors("qa", QUESTION))["start"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.text(LETTERS, max_size=30).map("a ".__add__), min_size=1, max_size=8))
def test_json_and_binary_carry_the_same_values(served: Served, texts: list[str]) -> None:
    tails = packed(*texts), packed(*texts[::-1])
    asked = [
        {"name": name, "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
        for name, tail in zip(("question", "context"), tails, strict=True)
    ]
    body, headers = announced({"inputs": asked, "parameters": {"binary_data_output": True}}, *tails)
    found = outputs(send(served, body, headers, "/v2/models/qa/infer"))
    expected = infer(served, "qa", tensor(*texts, name="question"), tensor(*texts[::-1], name="context"))
    assert found.pop("score") == np.array(expected.pop("score"), np.float32).tolist()
    assert found == expected


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_the_length_of_the_json_is_that_before_compression(served: Served, encoding: str, compress: Any) -> None:
    tail = packed("a text")
    asked = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    body, headers = announced({"inputs": [asked]}, tail)
    response = send(served, compress(body), headers | {"Content-Encoding": encoding, "Accept-Encoding": encoding})
    assert outputs(response) == infer(served, "topic", tensor("a text"))


def test_commas_inside_a_text_do_not_count_as_values(served: Served) -> None:
    tail = packed(*["," * 4900] * 8)
    asked = {"name": "text", "shape": [8], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    assert len(outputs(send(served, *announced({"inputs": [asked]}, tail)))["label"]) == 8
    values = b'{"inputs":[{"name":"text","shape":[8],"datatype":"BYTES","data":[' + b"1," * 40_000 + b"1]}]}"
    assert "more than 32768 values" in refused(send(served, *announced(values)), 400)


ONE = {"name": "text", "shape": [1], "datatype": "BYTES"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "body is a list"),
        ({}, "inputs is missing"),
        ({"inputs": []}, "inputs has 0 items; send at least 1"),
        ({"inputs": {}}, "inputs is an object"),
        ({"inputs": [1]}, "inputs[0] is the number 1"),
        ({"inputs": [ONE]}, "inputs[0].data is missing"),
        ({"inputs": [ONE | {"data": None}]}, "inputs[0].data is missing"),
        ({"inputs": [ONE | {"data": "a"}]}, "inputs[0].data is a text"),
        ({"inputs": [tensor("a")], "output": []}, "output is unknown; a request has id, "),
        ({"inputs": [tensor("a", x=1)]}, "inputs[0].x is unknown"),
        ({"inputs": [tensor("a")], "id": 7}, "id is the number 7"),
        ({"inputs": [tensor("a")], "parameters": []}, "parameters is a list"),
        ({"inputs": [tensor("a", name="txt")]}, "inputs[0].name is 'txt', but this model takes text"),
        ({"inputs": [tensor("a"), tensor("b")]}, "inputs[1].name is text, which occurs twice"),
        ({"inputs": [tensor("a", datatype="FP32")]}, "inputs[0].datatype is 'FP32'; send texts as BYTES"),
        ({"inputs": [tensor("a", datatype="x" * 50)]}, "inputs[0].datatype"),
        ({"inputs": [tensor("a", shape=[])]}, "inputs[0].shape has 0 items; send at least 1"),
        ({"inputs": [tensor("a", shape=[-1])]}, "inputs[0].shape[0] is the number -1"),
        ({"inputs": [tensor("a", shape=[True])]}, "inputs[0].shape[0] is true"),
        ({"inputs": [tensor("a", shape=[1.0])]}, "inputs[0].shape[0] is the number 1.0"),
        ({"inputs": [tensor("a", shape=[1, 1, 1])]}, "inputs[0].shape has 3 items; send 1 to 2"),
        ({"inputs": [tensor("a", "b", shape=[1, 2])]}, "inputs[0].shape is [1, 2]; send [n] or [n, 1]"),
        ({"inputs": [tensor("a", "b", shape=[3])]}, "has 2 items, but its shape [3] makes 3"),
        ({"inputs": [tensor("a", "b", shape=[1])]}, "has 2 items, but its shape [1] makes 1"),
        ({"inputs": [tensor(["a"], ["b", "c"], shape=[2, 1])]}, "has 3 items, but its shape [2, 1] makes 2"),
        ({"inputs": [tensor("a")], "outputs": [{"name": "labels"}]}, "but this model has label, score, scores, json"),
        (
            {"inputs": [tensor("a")], "outputs": [{"name": "label"}] * 2},
            "outputs[1].name is label, which occurs twice",
        ),
        ({"inputs": [tensor("a")], "outputs": [{}]}, "outputs[0].name is missing"),
        (
            {"inputs": [tensor("a")], "outputs": [{"name": "scores", "parameters": {"classification": 2}}]},
            "outputs[0].parameters.classification is not supported",
        ),
        (
            {"inputs": [tensor("a")], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
            "outputs[0].parameters.binary_data is the number 1; send true or false",
        ),
        ({"inputs": [tensor("a")], "parameters": {"binary_data_output": "yes"}}, "is 'yes'; send true or false"),
        ({"inputs": [tensor("a")], "parameters": {"timeout": -1}}, "parameters.timeout is the number -1"),
        ({"inputs": [tensor("a")], "parameters": {"timeout": True}}, "parameters.timeout is true"),
        (
            {"inputs": [tensor("a", parameters={"binary_data_size": 1})]},
            "binary_data_size is the number 1, and 0 bytes",
        ),
    ],
)
def test_what_does_not_follow_the_protocol_is_400(served: Served, document: object, says: str) -> None:
    assert says in refused(served.client.post(INFER, json=document), 400)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor("a", name="text")], "inputs lacks text_pair; send text and text_pair"),
        (
            [tensor("a", name="text"), tensor("a", "b", name="text_pair")],
            "text has 1 and text_pair has 2; send as many",
        ),
    ],
)
def test_inputs_of_a_pair_belong_together(served: Served, inputs: list[Any], says: str) -> None:
    assert says in refused(served.client.post("/v2/models/nli/infer", json={"inputs": inputs}), 400)


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "says"),
    [
        ("topic", [tensor()], {}, "has 0 items; send at least 1"),
        ("topic", [tensor(*["a"] * 9)], {}, "text: has 9 items; send 1 to 8"),
        ("topic", [tensor("a", shape=[10**30])], {}, "items; send 1 to 8"),
        ("topic", [tensor("a", 7)], {}, "text[1]: is the number 7, but must be a text"),
        ("topic", [tensor("a", ["b"])], {}, "text[1]: is a list, but must be a text"),
        ("topic", [tensor("a", None)], {}, "text[1]: is null"),
        ("topic", [tensor("a", "b" * 5001)], {}, "text[1]: has 5001 characters; at most 5000"),
        ("topic", [tensor("a", " ")], {}, "text[1]: ' ' has no visible character"),
        ("topic", [tensor("a")], {"topk": 1}, "parameters.topk: is not a parameter of classify; it takes top_k"),
        ("topic", [tensor("a")], {"top_k": 0}, "parameters.top_k: is 0"),
        ("qa", [tensor("a", name="context"), tensor(" ", name="question")], {}, "question[0]: ' ' has no visible"),
        ("qa", [tensor("b" * 5001, name="context"), tensor("a", name="question")], {}, "context[0]: has 5001"),
        ("fill-mask", [tensor("[MASK]", "none")], {}, "text[1]: "),
    ],
)
def test_what_the_task_cannot_take_is_422_and_names_the_item(
    served: Served, model: str, inputs: list[Any], parameters: dict[str, Any], says: str
) -> None:
    body = {"inputs": inputs, "parameters": parameters}
    assert says in refused(served.client.post(f"/v2/models/{model}/infer", json=body), 422)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_invalid_numbers_are_refused(served: Served, value: str) -> None:
    body = b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":[%s]}]}' % value.encode()
    assert "must be a text" in refused(send(served, body, {}), 422)
    body = json.dumps({"inputs": [tensor("a")], "parameters": {"top_k": 5}}).replace("5", value).encode()
    assert "top_k" in refused(send(served, body, {}), 422)


@pytest.mark.parametrize("length", ["-1", "0", "x", "1.5", "", "²", "9" * 5000, "100000", "0x10"])
def test_a_length_of_the_json_that_makes_no_sense_is_400(served: Served, length: str) -> None:
    body, _ = announced({"inputs": [tensor("a")]})
    headers = {HEADER_LENGTH.encode(): length.encode("latin-1")}
    response = served.client.send(served.client.build_request("POST", INFER, content=body, headers=headers))
    assert HEADER_LENGTH in refused(response, 400)


@pytest.mark.parametrize("length", [1, 20])
def test_a_length_that_cuts_the_json_is_400(served: Served, length: int) -> None:
    assert "not JSON" in refused(send(served, *announced({"inputs": [tensor("a")]}, length=length)), 400)


@pytest.mark.parametrize(
    ("shape", "tail", "size", "says"),
    [
        ([1], packed("ab"), 5, "end within item 0 of 1"),
        ([1], packed("ab"), 7, "is the number 7, and 6 bytes are left"),
        ([1], packed("ab"), -1, "is the number -1"),
        ([1], packed("ab"), True, "is true"),
        ([1], packed("ab"), "6", "is '6'"),
        ([1], packed("ab"), 6.0, "is the number 6.0"),
        ([1], packed("ab"), 10**400, "is a huge number"),
        ([1], packed("ab") + b"x", 6, "has 1 more bytes than the JSON announces"),
        ([1], packed("ab", "c"), 11, "has 11 bytes, but 1 items take 6"),
        ([2], packed("ab"), 6, "end within item 1 of 2"),
        ([1], b"\xff\xff\xff\xffab", 6, "end within item 0"),
        ([1], b"\x02\x00", 2, "end within item 0"),
        ([0], b"", 0, "has 0 items; send at least 1"),
        ([1], packed(b"a\xffb"), 7, "item 0 is not UTF-8: its byte 1 is 0xff"),
        ([2], packed("a", "é".encode()[:1]), 10, "item 1 is not UTF-8: its byte 0 is 0xc3"),
        ([1], packed(b"\xed\xa0\x80"), 7, "item 0 is not UTF-8"),
        ([9], packed(*"abcdefghi"), 45, "text: has 9 items; send 1 to 8"),
    ],
)
def test_tails_that_do_not_add_up_are_refused(
    served: Served, shape: list[int], tail: bytes, size: object, says: str
) -> None:
    asked = ONE | {"shape": shape, "parameters": {"binary_data_size": size}}
    response = send(served, *announced({"inputs": [asked]}, tail))
    assert says in refused(response, 422 if "send at least 1" in says or "send 1 to 8" in says else 400)


def test_an_input_is_sent_once(served: Served) -> None:
    asked = tensor("ab", parameters={"binary_data_size": 6})
    assert "no data" in refused(send(served, *announced({"inputs": [asked]}, packed("ab"))), 400)
    assert "1 more bytes" in refused(send(served, *announced({"inputs": [tensor("ab")]}, b"x")), 400)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tail=st.one_of(st.binary(max_size=40), st.lists(st.text(max_size=9)).map(lambda texts: packed(*texts))),
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=2),
    size=st.integers(0, 44),
    shift=st.integers(-3, 3),
)
def test_no_bytes_break_the_service(served: Served, tail: bytes, shape: list[int], size: int, shift: int) -> None:
    asked = json.dumps({"inputs": [ONE | {"shape": shape, "parameters": {"binary_data_size": size}}]}).encode()
    response = send(served, *announced(asked, tail, length=max(0, len(asked) + shift)))
    assert response.status_code in (200, 400, 422), response.text
