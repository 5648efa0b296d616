"""The step log: ahead of the step, append-only, checked row by row."""

import numpy as np
import pytest

from policy.errors import IntegrityError
from training.step_log import HEADER, ROW, StepLog, StepRow, check_prefix, effective_rows, fed_digest, read_steps


def a_row(step: int, loss: float = 0.5) -> StepRow:
    return StepRow(step, step * 8, 8, 0, 1e-3, loss, fed_digest([(step, bytes(32))]))


def write(path, *rows: StepRow) -> tuple[int, str]:
    with StepLog(path) as log:
        for row in rows:
            log.write(row)
        return log.seal()


def test_rows_come_back_as_written(tmp_path):
    """Every field survives, and a row takes at most 100 bytes."""
    path = tmp_path / "steps.log"
    write(path, a_row(0), a_row(1, loss=0.25))
    rows = read_steps(path)
    assert ROW.itemsize <= 100
    assert rows["step"].tolist() == [0, 1]
    assert rows["loss"].tolist() == [0.5, 0.25]
    assert rows["first_position"].tolist() == [0, 8]
    assert bytes(rows["fed_sha256"][1]) == fed_digest([(1, bytes(32))])


def test_rows_that_a_resume_went_back_behind_are_superseded_not_deleted(tmp_path):
    """After a resume at step 1 the old rows 1 and 2 stay in the file, and the new ones count."""
    path = tmp_path / "steps.log"
    write(path, a_row(0), a_row(1, 0.9), a_row(2, 0.9))
    write(path, a_row(1, 0.1), a_row(2, 0.2))
    rows = read_steps(path)
    assert rows["step"].tolist() == [0, 1, 2, 1, 2]
    assert effective_rows(rows)["step"].tolist() == [0, 1, 2]
    assert effective_rows(rows)["loss"].tolist() == [0.5, 0.1, 0.2]
    assert effective_rows(rows[:0]).tolist() == []


@pytest.mark.parametrize("offset", [3, len(HEADER) + 2, len(HEADER) + ROW.itemsize + 40])
def test_a_flipped_bit_is_found_and_its_row_named(tmp_path, offset):
    """A damaged header or row is an IntegrityError, never a shorter log."""
    path = tmp_path / "steps.log"
    write(path, a_row(0), a_row(1))
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    place = "not a step log" if offset < len(HEADER) else f"row {(offset - len(HEADER)) // ROW.itemsize}"
    with pytest.raises(IntegrityError, match=place):
        read_steps(path)


def test_a_torn_last_row_never_counted(tmp_path):
    """A row cut by a power failure is left out when reading and cut off when the run goes on."""
    path = tmp_path / "steps.log"
    write(path, a_row(0), a_row(1))
    path.write_bytes(path.read_bytes()[:-7])
    assert read_steps(path)["step"].tolist() == [0]
    write(path, a_row(1, 0.3))
    assert read_steps(path)["step"].tolist() == [0, 1]


def test_a_checkpoint_can_tell_its_part_of_the_log(tmp_path):
    """The sealed digest fits the first rows whatever follows, across reopening, and not a log with other rows."""
    path = tmp_path / "steps.log"
    write(path, a_row(0))
    rows, sha256 = write(path, a_row(1))
    write(path, a_row(2))
    check_prefix(path, rows, sha256)
    other = tmp_path / "other.log"
    write(other, a_row(0), a_row(1, loss=0.4), a_row(2))
    with pytest.raises(IntegrityError, match="first 2 rows"):
        check_prefix(other, rows, sha256)
    with pytest.raises(IntegrityError, match="unreadable"):
        check_prefix(tmp_path / "gone.log", rows, sha256)


def test_the_digest_names_ordinal_and_commitment():
    """The same commitment under another ordinal, or in another order, is another digest."""
    one, two = (1, b"a" * 32), (2, b"b" * 32)
    digests = {fed_digest(s) for s in ([one, two], [two, one], [(2, b"a" * 32), (1, b"b" * 32)], [])}
    assert len(digests) == 4
    assert np.array([len(d) for d in digests]).tolist() == [32] * 4
