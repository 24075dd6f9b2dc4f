"""The lists in docs/addresses.md, docs/protocol.md and docs/cli.md equal those of the code."""

import re
from pathlib import Path

import rfp.address as address
from rfp.cli import main
from rfp.control import Message, frame

COMMON = {"--address", "--timeout", "--secret-file", "--tls-ca", "--tls-cert", "--tls-key"}
DOCS = Path(__file__).parents[2] / "docs"


def test_the_documentation_has_every_option():
    text = (DOCS / "addresses.md").read_text()
    for provider, options in address._OPTIONS.items():
        section = re.search(rf"^## {provider}$(.*?)^## ", text, re.M | re.S)[1]
        assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(options)


def test_the_documentation_has_every_message_with_every_field():
    text = (DOCS / "protocol.md").read_text()
    rows = {
        int(kind): (name, rest)
        for kind, name, rest in re.findall(r"^\| (\d+) \| `(\w+)` \|(.*)$", text, re.M)
    }
    assert set(rows) == set(Message.KINDS)
    for number, kind in Message.KINDS.items():
        name, rest = rows[number]
        assert name == kind.title()
        assert all(f"`{field}`" in rest for field in kind.specs())
    assert str(frame.FD_LIMIT) in text
    assert str(frame.BODY_LIMIT) in text


def test_the_documentation_has_every_command_with_every_option():
    text = (DOCS / "cli.md").read_text()
    rows = dict(re.findall(r"^`rfp (\w+)[^`]*`\n: (.*?)\n\n", text, re.M | re.S))
    assert set(rows) == set(main.commands)
    for name, command in main.commands.items():
        options = {
            parameter.opts[0]
            for parameter in command.params
            if parameter.param_type_name == "option"
        }
        assert set(re.findall(r"`(--[a-z-]+)`", rows[name])) == options - COMMON
