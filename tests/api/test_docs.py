"""The lists of options, messages and commands in docs/ equal those of the code."""

import inspect
import re
from pathlib import Path

import click

import rfp.address as address
import rnvm.cli
from bench.experiments import smallbank, tatp
from rfp.cli import main
from rfp.control import Message, frame

COMMON = {"--address", "--timeout", "--secret-file", "--tls-ca", "--tls-cert", "--tls-key"}
DOCS = Path(__file__).parents[2] / "docs"


def options_of(command: click.Command) -> set[str]:
    return {each.opts[0] for each in command.params if each.param_type_name == "option"}


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
        assert set(re.findall(r"`(--[a-z-]+)`", rows[name])) == options_of(command) - COMMON


def test_the_documentation_has_every_command_for_pools_with_every_option():
    text = (DOCS / "pool.md").read_text()
    rows = dict(re.findall(r"^\| `rnvm ((?:group )?\w+) [^|]*(\|.*)$", text, re.M))
    found = dict(rnvm.cli.main.commands)
    groups = found.pop("group").commands
    found |= {f"group {name}": command for name, command in groups.items()}
    assert set(rows) == set(found)
    for name, command in found.items():
        # --of is in the first column.
        listed = set(re.findall(r"`(--[a-z-]+)`", rows[name]))
        assert listed == options_of(command) - (COMMON - {"--address", "--timeout"}) - {"--of"}


def test_the_documentation_has_every_option_of_the_applications():
    section = (DOCS / "applications.md").read_text().partition("## Options")[2]
    for module in (tatp, smallbank):
        assert options_of(module.main) <= set(re.findall(r"`(--[a-z-]+)`", section))


def test_the_help_of_every_command_has_an_example():
    found = [*main.commands.values(), *rnvm.cli.main.commands.values()]
    for command in (*found, *rnvm.cli.main.commands["group"].commands.values()):
        assert isinstance(command, click.Group) or "\nExample" in inspect.cleandoc(command.help)
