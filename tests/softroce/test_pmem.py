"""A machine's persistent memory is a file that only one machine uses, and that is complete."""

import pytest
from vm.errors import MachineError
from vm.pmem import Image, parse

pytestmark = pytest.mark.pure

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size", "mode"),
    [
        ("a.img:64MiB", 64 * MIB, "fsdax"),
        ("a.img:256:devdax", 256 * MIB, "devdax"),
        ("a.img:1GiB:fsdax", 1024 * MIB, "fsdax"),
    ],
)
def test_an_image_is_described_by_file_size_and_mode(tmp_path, monkeypatch, text, size, mode):
    monkeypatch.chdir(tmp_path)
    assert parse(text) == Image(tmp_path / "a.img", size, mode)


@pytest.mark.parametrize(
    "text",
    ["a.img", "a.img:", ":64MiB", "a.img:64MB", "a.img:64MiB:raw", "a.img:1MiB", "a.img:65MiB"],
)
def test_another_description_is_refused_with_an_example_or_the_bounds(text):
    with pytest.raises(MachineError, match=r"pool\.img:256MiB:devdax|at least 64 MiB"):
        parse(text)


def test_a_new_image_gets_its_name_when_it_is_formatted(tmp_path):
    image = Image(tmp_path / "a", 64 * MIB)
    with image.inserted():
        assert image.new
        assert image.file.stat().st_size == 64 * MIB
        assert not image.path.exists()
        image.formatted()
        assert image.path.stat().st_size == 64 * MIB
    with image.inserted():
        assert not image.new


def test_an_image_that_was_never_formatted_is_not_kept(tmp_path):
    with Image(tmp_path / "a", 64 * MIB).inserted():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("formatted", [True, False])
def test_two_machines_cannot_use_one_image(tmp_path, formatted):
    image = Image(tmp_path / "a", 64 * MIB)
    with image.inserted():
        if formatted:
            image.formatted()
        with pytest.raises(MachineError, match="is in use by another machine"):
            with Image(tmp_path / "a", 64 * MIB).inserted():
                pass
        assert image.file.exists()


def test_an_image_of_another_size_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    with pytest.raises(MachineError, match=f"has 1000 bytes, not {64 * MIB}"):
        with Image(tmp_path / "a", 64 * MIB).inserted():
            pass
