"""Files of tensors: what was written is read, and any other byte in them is refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detect.ops.tensor_files import read_tensor_file

CONTENT = {"a": torch.arange(600.0).reshape(20, 30), "b": {"c": [1, 2.5], "e": torch.ones(3, dtype=torch.int64)}}


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def refused(path) -> str:
    with pytest.raises(KeyError) as caught:
        read_tensor_file(path, KeyError, what="a checkpoint", allow_unchecked=True)
    message = caught.value.args[0]
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_what_was_written_is_read(path):
    read = read_tensor_file(path, KeyError)
    assert_close(read["a"], CONTENT["a"], rtol=0, atol=0)
    assert read["b"]["c"] == [1, 2.5]


def test_every_flipped_bit_of_a_tensor_is_refused(path):
    """Also those that leave an ordinary number: torch.load alone gives that number."""
    whole = path.read_bytes()
    start = whole.index(CONTENT["a"].numpy().tobytes())
    random = np.random.default_rng(0)
    for place in random.choice(CONTENT["a"].nbytes * 8, 60, replace=False):
        damaged = bytearray(whole)
        damaged[start + place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        torch.load(path, weights_only=True)  # says nothing
        assert "not a checkpoint, or damaged (a/data/0 has another checksum" in refused(path)
        assert "than was written" in refused(path)


def test_a_flipped_bit_anywhere_gives_an_error_or_the_same_values(path):
    """Padding, dates and permissions of an archive may differ; its names, sizes and checksums may not."""
    whole = path.read_bytes()
    for place in np.random.default_rng(1).choice(len(whole) * 8, 150, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with suppress(KeyError):
            assert_close(read_tensor_file(path, KeyError), CONTENT, rtol=0, atol=0)


def test_half_a_file_and_files_of_something_else(path):
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[100:], b"", b"PK\x03\x04", b"text\n\n", bytes(100)):
        path.write_bytes(content)
        assert "damaged" in refused(path)
    path.unlink()
    assert "No such file" in refused(path)
    path.mkdir()
    assert "Is a directory" in refused(path)


def test_an_archive_that_unpacks_to_more_than_itself_is_not_read(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**20))
    assert "a/data.pkl is compressed" in refused(path)


def test_nothing_in_a_file_is_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"a": Harm()}, tmp_path / "a.pt")
    torch.save({"a": Harm()}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Harm(), protocol=2))
    for name in "abc":
        assert "not a checkpoint" in refused(tmp_path / f"{name}.pt")
    assert not (tmp_path / "harm").exists()


def test_the_format_without_checksums_is_read_only_if_it_may_be(tmp_path):
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_close(read_tensor_file(tmp_path / "old.pt", KeyError, allow_unchecked=True), CONTENT, rtol=0, atol=0)
    with pytest.raises(KeyError, match="not a zip file"):
        read_tensor_file(tmp_path / "old.pt", KeyError)
