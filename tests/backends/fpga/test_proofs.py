"""Small proofs of the modules on which everything rests: for all inputs and all stalls, not only for those drawn.

The properties are written into a copy of the module, where they see its registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mercer.backends.fpga import tools
from mercer.backends.fpga.tools import ToolError
from tests.backends.fpga.bench import RTL

TASK = """
[options]
mode {mode}
depth {depth}
[engines]
smtbmc z3
[script]
read -formal {files}
chparam {parameters} {module}
prep -top {module}
memory_map
opt -full
[files]
{lines}
"""


def prove(
    directory: Path,
    module: str,
    properties: str,
    parameters: Mapping[str, int],
    used: tuple[str, ...] = (),
    depth: int | None = None,
    wrong: tuple[str, str] = ("", ""),
) -> str:
    """Log of the proof of `properties` by induction, or for `depth` cycles after reset; `wrong` is a planted fault."""
    texts = {name: (RTL / f"{name}.sv").read_text() for name in (module, *used)}
    faulty = next(name for name, text in texts.items() if wrong[0] in text)
    texts[faulty] = texts[faulty].replace(*wrong, 1)
    body, end, rest = texts[module].rpartition("endmodule")
    texts[module] = body + properties + end + rest
    files = [directory / f"{name}.sv" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text)
    names = [file.name for file in files]
    values = " ".join(f"-set {name} {value % (1 << 32)}" for name, value in parameters.items())
    task = TASK.format(
        mode="prove" if depth is None else "bmc", depth=depth or 4, files=" ".join(names), parameters=values,
        module=module, lines="\n".join(names),
    )  # fmt: skip
    return tools.prove(task, files)


RESET = """
  logic started;
  initial started = 1'b0;
  always_ff @(posedge clk) started <= 1'b1;
  always_comb if (!started) assume (rst);
"""

# A word is marked when it comes; it must leave behind exactly those that were there before it.
QUEUE = (
    RESET
    + """
  (* anyseq *) logic chosen;
  logic marked;
  logic [WIDTH-1:0] mark;
  logic [COUNT_BITS-1:0] ahead;
  logic [ADDRESS_BITS-1:0] place;
  wire [31:0] reached = 32'(head) + 32'(count);
  wire [31:0] marked_at = 32'(head) + 32'(ahead);
  always_ff @(posedge clk)
    if (rst) marked <= 1'b0;
    else if (push && chosen && !marked) begin
      marked <= 1'b1;
      mark <= s_axis_tdata;
      place <= tail;
      ahead <= count - COUNT_BITS'(pop);
    end else if (pop && marked) begin
      ahead <= ahead - 1'b1;
      if (ahead == '0) marked <= 1'b0;
    end
  always_comb if (started) begin
    assert (32'(count) <= DEPTH && 32'(head) < DEPTH && 32'(tail) < DEPTH);
    assert (32'(tail) == (reached >= DEPTH ? reached - DEPTH : reached));
    assert (m_axis_tvalid == (count != '0));
    assert (!(s_axis_tready && 32'(count) == DEPTH));
    if (m_axis_tvalid) assert (m_axis_tdata == words[head]);
    if (marked) begin
      assert (ahead < count && words[place] == mark);
      assert (32'(place) == (marked_at >= DEPTH ? marked_at - DEPTH : marked_at));
      if (pop && ahead == '0) assert (m_axis_tdata == mark);
    end
  end
"""
)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_queue_gives_its_words_in_order(tmp_path: Path, depth: int) -> None:
    assert "successful proof by k-induction" in prove(tmp_path, "mercer_fifo", QUEUE, {"WIDTH": 4, "DEPTH": depth})


def test_a_queue_one_entry_short_is_refuted(tmp_path: Path) -> None:
    wrong = ("ADDRESS_BITS'(DEPTH - 1)", "ADDRESS_BITS'(DEPTH - 2)")
    with pytest.raises(ToolError, match="Assert failed in mercer_fifo"):
        prove(tmp_path, "mercer_fifo", QUEUE, {"WIDTH": 4, "DEPTH": 5}, wrong=wrong)


# The code c is where 2**SHIFT*(c - ZERO) <= value*multiplier + 2**(SHIFT-1) < 2**SHIFT*(c - ZERO + 1); a code at LOW or
# HIGH keeps one of the two.
REQUANTIZED = """
  localparam [1:0] AFTER = 2'(2 + PIPELINE);
  logic [1:0] cycles;
  initial cycles = 2'd0;
  logic signed [IN_BITS-1:0] value_1, value_2, value_3;
  logic signed [MULTIPLIER_BITS-1:0] multiplier_1, multiplier_2, multiplier_3;
  always_ff @(posedge clk) if (enable) begin
    {value_3, value_2, value_1} <= {value_2, value_1, value};
    {multiplier_3, multiplier_2, multiplier_1} <= {multiplier_2, multiplier_1, multiplier};
    if (cycles != AFTER) cycles <= cycles + 2'd1;
  end
  wire signed [39:0] half = 40'sd1 <<< (SHIFT - 1);
  wire signed [39:0] before = (PIPELINE != 0 ? 40'(value_2)*40'(multiplier_2) : 40'(value_1)*40'(multiplier_1)) + half;
  wire signed [39:0] total = (PIPELINE != 0 ? 40'(value_3)*40'(multiplier_3) : 40'(value_2)*40'(multiplier_2)) + half;
  wire signed [39:0] moved = 40'(code) - 40'(ZERO);
  always_comb begin
    assert (cycles <= AFTER);
    if (cycles >= AFTER - 2'd1) assert (level == LEVEL_BITS'(before >>> SHIFT));
    if (cycles == AFTER) begin
      assert (40'(code) >= 40'(LOW) && 40'(code) <= 40'(HIGH));
      if (40'(code) != 40'(LOW)) assert ((moved <<< SHIFT) <= total);
      if (40'(code) != 40'(HIGH)) assert (total < ((moved + 40'sd1) <<< SHIFT));
    end
  end
"""
PRODUCT = ("mercer_product",)
SCALES = [
    {"IN_BITS": 6, "MULTIPLIER_BITS": 5, "SHIFT": 4, "ZERO": 3, "LOW": -8, "HIGH": 7, "OUT_BITS": 4},
    {"IN_BITS": 7, "MULTIPLIER_BITS": 4, "SHIFT": 1, "ZERO": -100, "LOW": -128, "HIGH": 127, "OUT_BITS": 8},
    {"IN_BITS": 4, "MULTIPLIER_BITS": 4, "SHIFT": 12, "ZERO": 0, "LOW": 0, "HIGH": 100, "OUT_BITS": 8},
]


@pytest.mark.parametrize("parameters", SCALES)
def test_the_requantizer_rounds_half_up_and_saturates(tmp_path: Path, parameters: dict[str, int]) -> None:
    log = prove(tmp_path, "mercer_requantize", REQUANTIZED, parameters, PRODUCT)
    assert "successful proof by k-induction" in log


@pytest.mark.parametrize("parameters", SCALES)
def test_the_pipelined_requantizer_does_the_same(tmp_path: Path, parameters: dict[str, int]) -> None:
    """Nothing in it is older than three cycles, so that five are all."""
    prove(tmp_path, "mercer_requantize", REQUANTIZED, parameters | {"PIPELINE": 1}, PRODUCT, depth=5)


def test_a_flipped_rounding_bit_is_refuted(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="Assert failed in mercer_requantize"):
        prove(tmp_path, "mercer_requantize", REQUANTIZED, SCALES[0], PRODUCT, wrong=("<<< (SHIFT - 1)", "<<< SHIFT"))


# Every place of the buffer remembers which pixel of which sample was written to it; a tap must find its own.
ADDRESSED = (
    RESET
    + """
  logic [15:0] tags [0:DEPTH-1];
  logic [7:0] come_row, come_place;
  logic come_sample, read_sample;
  wire [ADDRESS_BITS-1:0] read_address = row_address + ADDRESS_BITS'(offset);
  wire [15:0] found = tags[read_address];
  always_ff @(posedge clk)
    if (rst) {come_row, come_place, come_sample, read_sample} <= '0;
    else begin
      if (write) begin
        tags[write_address] <= {come_sample, come_row[6:0], come_place};
        come_place <= come_place == 8'(ROW - 1) ? '0 : come_place + 1'b1;
        if (come_place == 8'(ROW - 1)) begin
          come_row <= come_row == 8'(HEIGHT - 1) ? '0 : come_row + 1'b1;
          if (come_row == 8'(HEIGHT - 1)) come_sample <= !come_sample;
        end
      end
      if (fire && last_column && last_window_row) read_sample <= !read_sample;
    end
  always_comb if (started && !rst) begin
    assert (32'(write_address) < DEPTH);
    if (fire && covered) begin
      assert (32'(read_address) < DEPTH);
      assert (found == {read_sample, 7'(row), 8'(32'(column)*BEATS + 32'(beat))});
      assert (!(write && write_address == read_address));
    end
  end
"""
)
WINDOWS = [
    {"HEIGHT": 3, "WIDTH": 2, "KERNEL_HEIGHT": 2, "KERNEL_WIDTH": 1, "PAD_TOP": 0, "PAD_LEFT": 0, "ROWS": 2},
    {"HEIGHT": 2, "WIDTH": 2, "KERNEL_HEIGHT": 3, "KERNEL_WIDTH": 1, "PAD_TOP": 1, "PAD_LEFT": 0, "ROWS": 3},
    {"HEIGHT": 4, "WIDTH": 1, "KERNEL_HEIGHT": 1, "KERNEL_WIDTH": 1, "PAD_TOP": 0, "PAD_LEFT": 0, "ROWS": 2,
     "STRIDE_HEIGHT": 3, "CHANNELS": 2},
]  # fmt: skip
DEPTH = 12
PARTS = ("mercer_rows", "mercer_walk", "mercer_ram")


@pytest.mark.parametrize("parameters", WINDOWS)
def test_a_line_buffer_reads_what_was_written(tmp_path: Path, parameters: dict[str, int]) -> None:
    """For all stalls in the first cycles after reset."""
    prove(tmp_path, "mercer_window", ADDRESSED, {"BITS": 1, **parameters}, PARTS, depth=DEPTH)


def test_a_line_buffer_that_gives_rows_up_too_early_is_refuted(tmp_path: Path) -> None:
    wrong = ("fire && last_column ? frees", "fire && last_tap ? frees")
    with pytest.raises(ToolError, match="Assert failed in mercer_window"):
        prove(tmp_path, "mercer_window", ADDRESSED, {"BITS": 1, **WINDOWS[0]}, PARTS, depth=DEPTH, wrong=wrong)
