"""If this breaks, machines cannot read the log, or errors lose their traceback."""

import json
import logging

import pytest

from service import logs


def failed() -> logging.LogRecord:
    try:
        raise ValueError("it broke")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
        return logging.LogRecord("a", logging.ERROR, "f", 1, "failed %s", ("x\ny",), trace)


def test_json_lines_hold_level_message_fields_and_traceback() -> None:
    record = failed()
    setattr(record, logs.FIELDS, {"status": 500})
    line = logs.JsonFormatter().format(record)
    parsed = json.loads(line)
    assert "\n" not in line
    assert (parsed["level"], parsed["message"], parsed["status"]) == ("error", "failed x\ny", 500)
    assert "ValueError: it broke" in parsed["traceback"] and parsed["time"].endswith("Z")


def test_text_lines_hold_fields_and_traceback() -> None:
    record = failed()
    setattr(record, logs.FIELDS, {"status": 500, "path": "/a\nb"})
    first, *rest = logs.TextFormatter().format(record).replace("failed x\ny", "failed").split("\n")
    assert first.endswith("ERROR   failed status=500 path='/a\\nb'") and "ValueError: it broke" in rest[-1]


@pytest.mark.usefixtures("unconfigured")
def test_the_chosen_level_and_form_hold(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    logging.getLogger("service.x").info("no")
    logging.getLogger("service.x").warning("yes")
    assert json.loads(capsys.readouterr().err)["message"] == "yes"
