"""False alarms over two NAIP dates of cropland on which almost nothing was built.

    python benchmarks/accuracy_naip.py [--model vhr-change] [--data ../shared/data] [--threshold 0.5]

What is called changed between 2009 and 2015 is a false alarm: only seasons, ploughing and a lake's level differ. The
pair goes through the reading and inference of `tuban detect`, and may be refused. Shares are of all pixels seen, of
which nearly all are cropland; target at most 0.5 %. Results: `benchmarks/results/accuracy_naip.md`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from tuban.errors import PairError
from tuban.models.bundle import Bundle, resolve
from tuban.training.labelled import labelled_items
from tuban.training.predicted_place import predicted_pair

RESULTS = Path(__file__).parent / "results" / "accuracy_naip.md"
TARGET = 0.005


def measure(bundle: Bundle, folder: Path, threshold: float) -> list[str]:
    """Return the results as Markdown."""
    (place,) = labelled_items(folder, "naip_nd")
    head = [
        f"# False alarms of {bundle.model_id} over cropland (NAIP, North Dakota, 2009 and 2015)",
        "",
        f"`python benchmarks/accuracy_naip.py --model {bundle.name} --threshold {threshold}`",
        "",
    ]
    try:
        with predicted_pair(bundle, place) as predicted:
            seen = called = 0
            for strip in predicted.strips():
                seen += int(np.isfinite(strip.probability).sum())
                called += int((strip.probability >= threshold).sum())
            notes, pixel_m2 = predicted.notes, predicted.pixel_m2
    except PairError as error:
        return [*head, f"The pair is refused: {error}"]
    share = called / max(seen, 1)
    said = (
        f"Called changed: {called * pixel_m2 / 1e4:.2f} ha of {seen * pixel_m2 / 1e4:.0f} ha, {share:.3%} "
        f"(target {TARGET:.1%}: {'met' if share <= TARGET else 'missed'})."
    )
    return [*head, said, "", *(f"- {note}" for note in notes)]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="s2-change")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TUBAN_DATA", "../shared/data")))
    parser.add_argument("--threshold", type=float, help="default: the bundle's own")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    bundle = resolve(chosen.model, task="change")
    text = "\n".join(measure(bundle, chosen.data / "naip_nd", chosen.threshold or bundle.threshold)) + "\n"
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
