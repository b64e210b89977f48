"""A method of ours beside its authors' released code: same data, steps, batch, seed and cores, judged by the simulator.

OMP_NUM_THREADS=1 python -m benchmarks.released synther --checkout ../SynthER

The released code is imported from a checkout and trains and samples by itself; only its data come from Minari. Packages
that it imports but does not need for that (logging, rendering, D4RL) are stood in for by empty ones; the others must be
importable. All runs on the CPU.

Ours runs with the `paper` preset for as many training steps, and with the `cpu` preset for as many steps and as many
CPU seconds of training.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import asdict
from pathlib import Path

from benchmarks.record import write_record
from benchmarks.released import diffstitch, gta, synther
from benchmarks.released.common import Setting, revision

METHODS = {"synther": synther, "diffstitch": diffstitch, "gta": gta}


def main() -> None:
    """Write `results/released-<method>.json`."""
    setting, name = parse()
    method = METHODS[setting.method]
    path = write_record(
        name,
        "benchmarks.released",
        {
            **{key: value for key, value in asdict(setting).items() if key != "checkout"},
            "released": {"repository": method.REPOSITORY, "revision": revision(setting.checkout)},
            "measured": method.measure(setting),
        },
        packages=tuple(method.PACKAGES.values()),
    )
    print(path.read_text())


def parse() -> tuple[Setting, str]:
    """What the command line asks for, and the name of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--checkout", type=Path, required=True, help="folder with the released code")
    parser.add_argument("--dataset")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--samples", type=int, help="to generate: transitions, bridges or windows")
    parser.add_argument("--width", type=int, help="of the released network, instead of its own (diffstitch)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the result (default: released-<method>)")
    given = vars(parser.parse_args())
    method, name = METHODS[given["method"]], given.pop("name") or f"released-{given['method']}"
    if given["width"] and given["method"] != "diffstitch":
        parser.error("--width is for diffstitch only")
    if not (given["checkout"] / method.SCRIPT).is_file():
        parser.error(
            f"--checkout {given['checkout']} does not hold the released code ({method.SCRIPT} is not there); "
            f"git clone https://github.com/{method.REPOSITORY} and give that folder"
        )
    missing = [package for module, package in method.PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"the released code needs packages that are not installed; pip install {' '.join(missing)}")
    return Setting(**method.DEFAULTS | {key: value for key, value in given.items() if value is not None}), name


if __name__ == "__main__":
    main()
