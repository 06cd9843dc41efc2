"""Measure how long many pictures take to validate and to fingerprint, and again by a second command.

    python benchmarks/large_images.py [--images 20000] [--folder DIR]

The pictures are JPEG files of 500×375 px in VOC's layout, crops of scikit-learn's two photographs, with three
boxes each. What the folder has already is used again. Each command is a process of its own, and starts with
the digests that the commands above it left. Memory is the peak of the process, libraries included; the rows
of ten pictures show what these take. MB read are what the process got from read(), be it from the page cache
(/proc/PID/io). The output is Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT = 500, 375
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
OBJECT = f"<object><name>RBC</name>{BOX}</object>"
SUITE = """name: large
datasets:
  pictures: {{dataset: voc, options: {{root: {root}, classes: [RBC, WBC, Platelets]}}}}
adapters:
  ssd: {{adapter: ssd, checkpoint: ssd-augmented-bccd}}
benchmarks:
  pictures: {{dataset: pictures, adapters: [ssd], metrics: [coco]}}
"""
# Runs the command line, then prints the bytes that its process read and its peak memory in KiB.
MEASURED = """
import atexit, pathlib, resource, sys
def report():
    rchar = pathlib.Path("/proc/self/io").read_text().split()[1]
    print(rchar, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
atexit.register(report)
from harness.cli.app import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "large-images")
    options = parser.parse_args()
    print("| pictures | MB | command | wall s | CPU s | peak MB | MB read |\n|---|---|---|---|---|---|---|")
    for count in (10, options.images):
        root = options.folder / str(count)
        if not (root / "ImageSets").exists():
            write_pictures(root, count)
        size = sum(file.stat().st_size for file in root.rglob("*.*")) / 1e6
        with tempfile.TemporaryDirectory() as folder:
            suite = Path(folder) / "large.yaml"
            suite.write_text(SUITE.format(root=root))
            for command in ("validate", "plan", "plan"):
                figures = measure([command, str(suite)], {**os.environ, "HARNESS_CACHE": folder})
                print(f"| {count:,} | {size:,.0f} | `{command}` | {figures} |", flush=True)


def measure(arguments: list[str], environment: dict[str, str]) -> str:
    """Run a command of the harness and return wall seconds, CPU seconds, peak MB and MB read."""
    start, before = time.monotonic(), os.times()
    command = [sys.executable, "-c", MEASURED, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    wall, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    read, peak = map(int, finished.stderr.split()[-2:])
    return f"{wall:.1f} | {cpu:.1f} | {peak * 1024 / 1e6:.0f} | {read / 1e6:,.0f}"


def write_pictures(root: Path, count: int) -> None:
    """Write the pictures, their annotations and the list of the test split."""
    generator = np.random.default_rng(0)
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    ids = [f"{index:06}" for index in range(count)]
    for index, name in enumerate(ids):
        photograph = photographs[index % 2]
        left = int(generator.integers(photograph.width - WIDTH))
        top = int(generator.integers(photograph.height - HEIGHT))
        picture = photograph.crop((left, top, left + WIDTH, top + HEIGHT))
        picture.save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        corners = generator.integers(1, (WIDTH - 60, HEIGHT - 60), (3, 2))
        boxes = np.hstack([corners, corners + generator.integers(10, 60, (3, 2))])
        objects = "".join(OBJECT.format(*box) for box in boxes)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(ids) + "\n")


if __name__ == "__main__":
    main()
