"""Time and memory of every export format at two sizes: `python benchmarks/export.py [--rows 100000 1000000]`.

Each export runs in a process of its own on generated findings (a square each, the contract's columns, a trace of the
usual length); peak memory is the process's `ru_maxrss`. Writes `benchmarks/results/export.md`. With
TUBAN_POSTGIS=postgresql://… `--formats postgis` measures that too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FORMATS = ("gpkg", "shp", "gdb", "geojson", "flatgeobuf", "geoparquet", "kml", "xlsx", "html", "pdf")
BATCH = 20_000
REASON = (
    "P1 永久基本农田转为建设用地：疑似；影像变化 cropland->built_mixed；重叠 13500.00 m2 (20.25 亩)，"
    "位置误差 ±5.13 m 时 10910.02~16277.42 m2，扣除有效批准后 13500.00 m2；依据地块 YJJBNTTB0001 DLBM=0103 旱地"
)
TEXTS = {
    "reason": REASON,
    "basis": "土地管理法 35、44；基本农田保护条例 15、17、30、33 [L]",
    "model_id": "s2-change@0.1.0",
    "rule_pack": "cn@2026.1",
    "date_before": "2025-03-15",
    "date_after": "2025-11-02",
    "zone_role": "permanent_basic_farmland",
    "from_class": "cropland",
    "to_class": "built_mixed",
    "trace": json.dumps({"areas_m2": {"overlap": 13500.0, "net": 13500.0}, "features": [{"code": "0103"}] * 2}),
}
HEAD = """# Exports

`python benchmarks/export.py`: a process for each export, `ru_maxrss` as its peak memory. Before the first row a process
has about 300 MB (GDAL, pyarrow, PROJ). gpkg is a copy, for nothing is renamed; html and pdf hold the 60 findings that
matter most, and say so.

{cores} cores; load at the start {load:.1f}.

| format | findings | seconds | CPU s | peak MB | file MB |
|---|---|---|---|---|---|
"""


def make(folder: Path, rows: int) -> None:
    """Write a run with `rows` findings."""
    import geopandas as gpd
    import numpy as np
    import shapely

    from tuban.postprocess.layers import FINDING_COLUMNS, LayerWriter
    from tuban.postprocess.manifest import Manifest

    with LayerWriter(folder / "findings.gpkg", crs="EPSG:4547") as writer:
        for start in range(0, rows, BATCH):
            numbers = np.arange(start, min(start + BATCH, rows))
            x, y = 400_000 + 60.0 * (numbers % 2000), 3_300_000 + 60.0 * (numbers // 2000)
            data = {name: TEXTS.get(name, 1234.5 if kind == "float" else "") for name, kind in FINDING_COLUMNS.items()}
            data |= {"finding_id": [f"{n:016x}" for n in numbers], "change_id": [f"{n:016x}" for n in numbers + 7]}
            data |= {"rule_id": np.where(numbers % 2, "P1", "F1"), "severity": np.where(numbers % 2, "S4", "S3")}
            data |= {"status": np.where(numbers % 5, "suspected", "permitted"), "trace": TEXTS["trace"]}
            data |= {"confidence": 0.8, "lon": 114.0, "lat": 30.5}
            frame = gpd.GeoDataFrame(data, geometry=shapely.box(x, y, x + 40, y + 35), crs="EPSG:4547")
            writer.append("findings", frame)
    manifest = Manifest("check")
    manifest.set("rule_pack", {"id": "cn", "version": "2026.1"})
    manifest.write(folder)


def one(folder: Path, fmt: str) -> None:
    """Export once and print what it took, as JSON."""
    from tuban.postprocess.export import export

    start = time.monotonic()
    out = os.environ["TUBAN_POSTGIS"] if fmt == "postgis" else folder / f"out_{fmt}" / "findings"
    result = export(folder, fmt, out)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    parts = [part for path in result.files for part in ([path] if path.is_file() else path.iterdir())]
    found = {
        "seconds": time.monotonic() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss_mb": usage.ru_maxrss / 1024,
        "mb": sum(part.stat().st_size for part in parts) / 1e6,
    }
    print(json.dumps(found))


def row(folder: Path, fmt: str, rows: int) -> str:
    """Measure one export in a process of its own and return its line of the table."""
    command = [sys.executable, __file__, "--one", str(folder), fmt]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    shutil.rmtree(folder / f"out_{fmt}", ignore_errors=True)
    if done.returncode:
        return f"| {fmt} | {rows:,} | failed: {done.stderr.strip().splitlines()[-1][:120]} | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    figures = (found["seconds"], found["cpu"], found["rss_mb"], found["mb"])
    return f"| {fmt} | {rows:,} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |"


def main() -> None:
    """Measure every format at every size and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    if given.one:
        one(Path(given.one[0]), given.one[1])
        return
    table = HEAD.format(cores=os.cpu_count(), load=os.getloadavg()[0])
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), rows)
            for fmt in given.formats:
                line = row(Path(name), fmt, rows)
                print(line, flush=True)
                table += line + "\n"
    (Path(__file__).parent / "results" / "export.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
