from __future__ import annotations

import json

import numpy as np
import pytest

from tuban.errors import OutputError
from tuban.inference.journal import Journal, code_digest
from tuban.inference.parts import Part, Tally, make_part, read_tally
from tuban.inference.products import RasterSpec
from tuban.inference.reading import Damage
from tuban.inference.windows import plan_windows

SPECS = [RasterSpec("a", 255, "a"), RasterSpec("b", 0, "b")]
PLAN = plan_windows(40, 100, tile=32, halo=0, stride=16)


def part(index: int, damage: tuple[Damage, ...] = (), seed: int = 0) -> Part:
    rng = np.random.default_rng((seed, index))
    windows = PLAN.group(index, 1)
    shape = (windows[0].height, windows[0].width)
    arrays = [{spec.name: rng.integers(0, 256, shape, dtype=np.uint8) for spec in SPECS}]
    return make_part(index, windows, arrays, SPECS, Tally(run=1, valid_px=7, unseen_px=2, fed_px=99, damage=damage))


def test_a_part_carries_what_was_counted():
    made = part(3, (Damage(1, 2, 3, 4, "坏块"),))
    assert read_tally(made.data) == made.tally
    assert sum(made.tally.values["a"]) == PLAN.window(3).pixels
    assert part(3).data == part(3).data
    assert part(3).data != part(3, seed=1).data


def test_tallies_add_up_whatever_the_order():
    parts = [part(index).tally for index in range(len(PLAN))]
    forward, backward = sum(parts, Tally()), sum(reversed(parts), Tally())
    assert forward == backward
    assert (forward.run, forward.valid_px, forward.unseen_px) == (len(PLAN), 7 * len(PLAN), 2 * len(PLAN))
    assert sum(forward.values["b"]) == 4000


def test_a_block_met_by_two_windows_is_counted_once():
    block = (Damage(0, 0, 4, 4, "bad"),)
    otherwise = (Damage(0, 0, 4, 4, "worse"),)
    for second in (block, otherwise):
        assert (part(0, block).tally + part(1, second).tally).damage == block
        assert (part(1, second).tally + part(0, block).tally).damage == block


def test_a_run_goes_on_where_it_stopped(tmp_path):
    first = Journal(tmp_path / "j", {"model": "x"})
    first.decide(background={"shift": 0.1})
    for index in (0, 2):
        first.add(part(index))
    again = Journal(tmp_path / "j", {"model": "x"})
    assert list(again.missing(5)) == [1, 3, 4]
    assert again.facts == {"background": {"shift": 0.1}}
    assert again.tally == first.tally
    assert again.reused == 2
    assert "gone on with" in again.notes[0]
    assert again.paths() == first.paths()


@pytest.mark.parametrize("change", [{"model": "y"}, {"model": "x", "source": {"size": 1}}])
def test_another_key_begins_anew_and_says_so(tmp_path, change):
    Journal(tmp_path / "j", {"model": "x"}).add(part(0))
    again = Journal(tmp_path / "j", change)
    assert list(again.missing(2)) == [0, 1]
    assert again.tally == Tally()
    assert [path.name for path in (tmp_path / "j").iterdir()] == ["journal.json"]
    assert "began anew" in again.notes[0]
    assert ("model" in again.notes[0]) == (change["model"] == "y")


def test_damage_on_disk_and_half_written_files_are_made_again(tmp_path):
    journal = Journal(tmp_path / "j", {})
    for index in range(3):
        journal.add(part(index))
    paths = journal.paths()
    paths[0].write_bytes(paths[0].read_bytes()[:-5])
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 1
    paths[1].write_bytes(data)
    (tmp_path / "j" / ".000000004-00000000.tif.tmp").write_bytes(b"half")
    again = Journal(tmp_path / "j", {})
    assert list(again.missing(4)) == [0, 1, 3]
    assert sum("damaged" in note for note in again.notes) == 2
    assert not list((tmp_path / "j").glob(".*"))


def test_a_part_with_unread_blocks_is_tried_again(tmp_path):
    journal = Journal(tmp_path / "j", {})
    journal.add(part(0))
    journal.add(part(1, (Damage(0, 0, 16, 16, "gone"),)))
    assert set(journal.paths()) == {0, 1}
    again = Journal(tmp_path / "j", {})
    assert list(again.missing(2)) == [1]
    assert again.tally.damage == ()


def test_an_unreadable_journal_begins_anew(tmp_path):
    Journal(tmp_path / "j", {}).add(part(0))
    (tmp_path / "j" / "journal.json").write_text("{")
    again = Journal(tmp_path / "j", {})
    assert again.empty
    assert "could not be read" in again.notes[0]
    assert json.loads((tmp_path / "j" / "journal.json").read_text())["key"] == {"format": 1}


def test_an_error_before_any_part_leaves_no_trace(tmp_path):
    with pytest.raises(KeyError), Journal(tmp_path / "j", {}):
        raise KeyError
    assert not (tmp_path / "j").exists()
    journal = Journal(tmp_path / "j", {})
    journal.add(part(0))
    with pytest.raises(KeyError), journal:
        raise KeyError
    assert (tmp_path / "j").exists()


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", {})


def test_the_code_has_a_digest():
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64
