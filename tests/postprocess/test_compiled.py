from __future__ import annotations

import logging
import subprocess
import sys

from tuban.postprocess.compiled import compiled

SOURCE = """
def total(values):
    found = 0
    for value in values:
        found += value
    return found
"""


def test_without_a_place_to_keep_code_it_compiles_in_each_run(caplog):
    scope = {}
    exec(SOURCE, scope)  # noqa: S102  (a function without a file has no place to keep its code)
    with caplog.at_level(logging.INFO, logger="tuban.postprocess.compiled"):
        total = compiled(scope["total"])
    assert total((1, 2, 3)) == 6
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_code_is_kept_for_later_runs(tmp_path):
    (tmp_path / "kept.py").write_text("from tuban.postprocess.compiled import compiled\n\n\n@compiled" + SOURCE)
    script = "import kept; print(kept.total((1, 2)), sum(kept.total.stats.cache_hits.values()))"
    runs = [
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout.split() for run in runs] == [["3", "0"], ["3", "1"]]
