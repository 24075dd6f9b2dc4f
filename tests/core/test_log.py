"""The loggers "rfp" and "rnvm": rate limits of messages, and escaped text of peers."""

import logging

import python_programs

from rfp.core.log import BURST, Log


def test_messages_of_a_kind_are_limited_and_counted(caplog):
    now = [0.0]
    log = Log("rfp.test", now=lambda: now[0])
    for i in range(BURST + 30):
        log.warning("refused client %d", i)
    log.warning("another kind")
    assert [record.getMessage() for record in caplog.records] == [
        f"refused client {i}" for i in range(BURST)
    ] + ["another kind"]
    caplog.clear()
    now[0] += 2.5
    for i in range(5):
        log.warning("refused client %d", i)
    assert caplog.messages == [
        "refused client 0 (30 like this were suppressed)",
        "refused client 1",
    ]
    caplog.clear()
    now[0] += 3600  # after any time, at most one burst is allowed
    for i in range(BURST + 1):
        log.warning("refused client %d", i)
    assert len(caplog.records) == BURST
    assert caplog.messages[0] == "refused client 0 (3 like this were suppressed)"


def test_messages_below_the_level_do_not_count_towards_the_limit(caplog):
    log = Log("rfp.test", now=lambda: 0.0)
    for _ in range(2 * BURST):
        log.info("client %d", 1)
    with caplog.at_level(logging.INFO, "rfp.test"):
        log.info("client %d", 2)
    assert caplog.messages == ["client 2"]


def test_arguments_are_logged_as_one_printable_line_and_not_as_objects(caplog):
    class Thing:
        def __str__(self):
            return "thing\nWARNING forged\x1b[2J\udce9" + 4000 * "x"

    Log("rfp.test").warning("%s and %d", Thing(), 7)
    assert caplog.messages[0].startswith("thing\\nWARNING forged\\x1b[2J\\udce9xxx")
    assert len(caplog.messages[0]) < 2200
    assert all(isinstance(each, str | int) for each in caplog.records[0].args)


def test_a_traceback_is_text_that_every_handler_can_write(caplog):
    try:
        raise ValueError("\x1b\n2026 ERROR rfp: forged \udce9")
    except ValueError:
        Log("rfp.test").exception("the handler raised %s", "ValueError")
    assert caplog.messages[0].startswith(
        "the handler raised ValueError\n  Traceback (most recent call last):\n"
    )
    assert caplog.messages[0].endswith("  ValueError: \\x1b\n  2026 ERROR rfp: forged \\udce9")
    assert caplog.records[0].exc_info is None


def test_a_handler_that_raises_does_not_end_the_thread_that_logs():
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError

    logger, handler = logging.getLogger("rfp.test"), Broken()
    logger.addHandler(handler)
    try:
        Log("rfp.test").error("an error")
    finally:
        logger.removeHandler(handler)


def test_an_exception_is_logged_with_its_traceback(caplog):
    try:
        raise KeyError("k")
    except KeyError:
        Log("rfp.test").exception("cannot do %s", "it")
    assert "KeyError: 'k'" in caplog.text


def test_a_client_does_not_import_logging(private):
    program = (
        "import sys, rfp, rfp.core.log; from rfp.core.at_exit import at_exit\n"
        "print('logging' in sys.modules)"
    )
    # The interpreter's start-up (site, the loader of an editable build) may have imported logging.
    before = python_programs.run("-c", "import sys; print('logging' in sys.modules)").stdout
    if before == b"False\n":
        assert python_programs.run("-c", program).stdout == b"False\n"
