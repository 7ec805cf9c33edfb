"""Checkpoints that are whole, cut off, damaged or lack what training goes on from."""

from pathlib import Path

import pytest

from stmoe_hf.training.checkpoints import FILES, STATE, checkpoints, what_is_wrong, write_list

CONTENT = {
    "model.safetensors": b"weights",
    "optimizer.pt": b"moments",
    "scheduler.pt": b"rate",
    "rng_state.pth": b"random",
    STATE: b'{"global_step": 3}',
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    write_list(folder)
    return folder


def test_a_whole_checkpoint_is_whole_also_one_of_an_earlier_version_without_a_list(checkpoint):
    assert what_is_wrong(checkpoint) is None
    (checkpoint / FILES).unlink()
    assert what_is_wrong(checkpoint) is None


@pytest.mark.parametrize("name", [name for name in CONTENT if name != STATE])
def test_what_is_missing_cut_off_or_damaged_is_named(checkpoint, name):
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[:-1])
    assert what_is_wrong(checkpoint) == f"{name} has {len(whole) - 1} bytes in place of {len(whole)}"
    (checkpoint / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert what_is_wrong(checkpoint) == f"{name} is damaged: its checksum is another"
    (checkpoint / name).unlink()
    for _ in range(2):
        assert what_is_wrong(checkpoint).startswith("it has no ")
        (checkpoint / FILES).unlink(missing_ok=True)  # and without a list


def test_a_state_or_list_that_cannot_be_read_is_named(checkpoint):
    (checkpoint / FILES).write_text('{"model.safetensors": 3}')
    assert what_is_wrong(checkpoint) == f"{FILES}, the list of its files, is damaged"
    (checkpoint / STATE).write_text("{")
    assert "is damaged" in what_is_wrong(checkpoint)
    (checkpoint / STATE).unlink()
    assert what_is_wrong(checkpoint) == "it was cut off while it was written"


def test_the_last_checkpoint_comes_first_by_its_number(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]
