"""No object of the packages' extension types crashes the interpreter, even without its __init__."""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
from collections.abc import Callable

import half_made
import pytest
import python_programs
from structure_kinds import KINDS

import rfp
import rnvm
import structures
from rfp.errors import WrongType


@pytest.mark.timeout(240)
def test_an_object_without_its_init_does_not_crash_the_interpreter_and_cannot_be_copied() -> None:
    done = python_programs.run(half_made.__file__, seconds=220, text=True, stdin=-3)
    assert done.returncode == 0, done.stderr
    *findings, counted = done.stdout.splitlines()
    assert not findings, "\n".join(findings)
    assert int(counted.split()[0]) > 70  # the walk finds the types


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda thing, protocol=protocol: pickle.dumps(thing, protocol) for protocol in range(6)),
    ],
    ids=["copy", "deepcopy", *(f"pickle {protocol}" for protocol in range(6))],
)
def test_handles_servers_and_structures_cannot_be_copied_and_the_error_has_a_hint(
    copied: Callable[[object], object],
) -> None:
    with (
        tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder,
        rfp.Server(memory="8MiB") as server,
        rfp.connect(server.address) as kv,
        rfp.RpcServer(bytes) as other,
        rfp.RpcClient(other.address) as rpc,
        rnvm.Backend(f"{folder}/p", size="4MiB", assume_persistent=True) as backend,
        rnvm.connect(backend.address) as fe,
        kv.register(bytearray(100)) as registration,
    ):
        kv.put(b"k", b"v")
        table = structures.HashTable(fe, "h")
        others = [kind(fe, kind.__name__) for kind in KINDS]
        batch, transaction = fe.batch(), fe.transaction(table)
        for thing in (
            server,
            kv,
            other,
            rpc,
            backend,
            fe,
            table,
            *others,
            batch,
            transaction,
            registration,
            kv.connection,
            kv.connection.control,
            kv.connection.channels[0].reply,
            kv.connection.fabric,
        ):
            with pytest.raises(WrongType, match="cannot be copied") as refused:
                copied(thing)
            assert refused.value.hint
        assert kv.get(b"k") == b"v"
