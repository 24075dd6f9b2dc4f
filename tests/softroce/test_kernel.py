"""The machine's kernel is the newest one with soft-RoCE, and it is unpacked once."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest
from vm.errors import MachineError
from vm.kernel import Kernel, find, unpacked

pytestmark = pytest.mark.pure

ELF = b"\x7fELF" + bytes(range(256)) * 40


def image(payload: bytes, *, sectors: int = 3, offset: int = 77) -> bytes:
    """Return a bzImage with this payload, and bytes after the payload that are not part of it."""
    head = bytearray((sectors + 1) * 512)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head) + bytes(offset) + payload + b"\xfd7zXZ\0 not this"


def computer(folder: Path, *, able: list[str], unable: list[str] = ()) -> tuple[Path, Path]:
    boot, modules = folder / "boot", folder / "modules"
    boot.mkdir()
    modules.mkdir()
    for release in [*able, *unable]:
        (boot / f"vmlinuz-{release}").touch()
    for release in able:
        rxe = modules / release / "kernel/drivers/infiniband/sw/rxe"
        rxe.mkdir(parents=True)
        (rxe / "rdma_rxe.ko.xz").touch()
    return boot, modules


def test_the_newest_kernel_with_soft_roce_is_chosen(tmp_path):
    boot, modules = computer(
        tmp_path, able=["6.1.0-9-amd64", "6.1.0-10-amd64"], unable=["6.12.1-cloud-amd64"]
    )
    assert find(boot, modules) == Kernel("6.1.0-10-amd64", boot / "vmlinuz-6.1.0-10-amd64")


def test_the_error_without_a_kernel_names_the_package(tmp_path):
    with pytest.raises(
        MachineError, match=r"there is no vmlinuz-\* .*apt-get install linux-image-amd64"
    ):
        find(tmp_path)


def test_the_error_names_the_module_that_the_kernels_lack(tmp_path):
    boot, modules = computer(tmp_path, able=[], unable=["6.1.0-9-cloud-amd64"])
    with pytest.raises(
        MachineError, match=r"no module rdma_rxe .* for 6.1.0-9-cloud-amd64 .*linux-image-amd64"
    ):
        find(boot, modules)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_a_packed_kernel_is_unpacked(tmp_path, pack):
    (tmp_path / "vmlinuz").write_bytes(image(pack(ELF)))
    result = unpacked(Kernel("1", tmp_path / "vmlinuz"), tmp_path / "cache")
    assert result.read_bytes() == ELF


def test_a_kernel_of_unknown_compression_is_booted_as_it_is(tmp_path):
    (tmp_path / "vmlinuz").write_bytes(image(b"zstd or so"))
    assert unpacked(Kernel("1", tmp_path / "vmlinuz"), tmp_path / "cache") == tmp_path / "vmlinuz"


def test_a_file_that_is_no_kernel_is_refused(tmp_path):
    (tmp_path / "vmlinuz").write_bytes(image(lzma.compress(b"no ELF")))
    with pytest.raises(MachineError, match="does not unpack to an ELF image"):
        unpacked(Kernel("1", tmp_path / "vmlinuz"), tmp_path / "cache")


def test_a_kernel_is_unpacked_once_and_again_after_it_was_replaced(tmp_path):
    kernel = Kernel("1", tmp_path / "vmlinuz")
    kernel.image.write_bytes(image(lzma.compress(ELF)))
    first = unpacked(kernel, tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert unpacked(kernel, tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    kernel.image.write_bytes(image(lzma.compress(ELF + b"!")))
    second = unpacked(kernel, tmp_path / "cache")
    assert second.read_bytes() == ELF + b"!"
    assert list((tmp_path / "cache").iterdir()) == [second]
