"""What the restrictions of CoDeNet (Dong et al. 2021) save in hardware: bounded, square and rounded offsets in a table.

    python benchmarks/fpga_deform.py [--size 64] [--channels 16] [--lanes 4]

Sampling of a 3 x 3 deformable convolution; counts are Yosys's for the ECP5. `offset products` are the multiplications
per output pixel of the 3 x 3 convolution that computes the offsets; `product cycles` those of a full (as
many outputs as inputs) and of a depthwise convolution of the samples with LANES multipliers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mercer.backends.fpga import tools
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Stream
from mercer.backends.fpga.stages_spatial import Deform

RTL = Path(tools.__file__).parent / "rtl"
FILES = [RTL / f"mercer_{name}.sv" for name in ("deform", "bilinear", "ram", "rows")]
CODES = Interval(-128, 127)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--lanes", type=int, default=4)
    options = parser.parse_args()
    size, channels = options.size, options.channels
    pixels = size * size
    full = pixels * 9 * channels * channels // options.lanes
    columns = ("buffer bytes", "offset products", "cycles", "LUT", "FF", "DSP", "BRAM")
    print(f"{'offsets':<28}" + "".join(f"{column:>17}" for column in columns))
    for bound, square, rounded in (
        (size - 1, False, False),
        (7, False, False),
        (3, False, False),
        (3, True, False),
        (3, False, True),
        (3, True, True),
        (1, True, True),
    ):
        values = 1 if square else 18
        stage = Deform(
            name="deform", sources=("x", "offset"), input=Stream(pixels, channels, CODES),
            offsets=Stream(pixels, values, CODES), size=(size, size), kernel=(3, 3), out=(size, size), fraction=4,
            bound=bound, pad=(1, 1), square=square, rounded=rounded, lanes=options.lanes,
        )  # fmt: skip
        count = tools.synthesize(FILES, stage.module, parameters=stage.parameters())
        form = "anywhere" if bound == size - 1 else f"bound {bound}"
        form += f", {'square' if square else 'free'}, {'rounded' if rounded else 'bilinear'}"
        row = (stage.rows * size * channels, values * 9 * channels, stage.cycles, *vars(count).values())
        print(f"{form:<28}" + "".join(f"{value:>17,}" for value in row))
    print(f"product cycles: full {full:,}, depthwise {pixels * 9 * channels // options.lanes:,}")


if __name__ == "__main__":
    main()
