"""RFP_ASSERT ends the process in debug and sanitizer builds, and is nothing in release builds."""

import os
import signal

import python_programs

from rfp.testing import assertions


def failing(monkeypatch):
    # The stack is no report that fails the run.
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":log_path=stderr")
    return python_programs.run(
        "-c",
        "from rfp.testing import assertions; assertions.require_positive(-1); print('went on')",
    )


def test_a_false_assertion_ends_the_process_with_its_file_and_line_and_a_release_build_has_none(
    monkeypatch,
):
    ended = failing(monkeypatch)
    if assertions.enabled():
        assert ended.returncode == -signal.SIGABRT
        assert ended.stdout == b""
        line = ended.stderr.decode().splitlines()[0]
        assert line.startswith("rfp/testing/assertions.pyx:14: assertion failed: "), line
        assert "number > 0" in line
    else:
        assert (ended.returncode, ended.stdout) == (0, b"went on\n")


def test_a_true_assertion_has_no_effect():
    assertions.require_positive(1)
