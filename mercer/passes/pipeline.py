"""What a compilation does, in order."""

from __future__ import annotations

from mercer.passes.batch_norm import BatchNorm
from mercer.passes.bind import Bind
from mercer.passes.canonical import Canonical
from mercer.passes.chunk_scan import ChunkScan
from mercer.passes.compact_support import CompactSupport
from mercer.passes.cse import CommonSubexpressions
from mercer.passes.dead_code import DeadCode
from mercer.passes.exact_float import ExactFloat
from mercer.passes.exact_scale import ExactScale
from mercer.passes.factorize.associate import Associate
from mercer.passes.factorize.collapse import Collapse
from mercer.passes.factorize.constant_solve import ConstantSolve
from mercer.passes.factorize.cp_conv import CpConv
from mercer.passes.factorize.crop import Crop
from mercer.passes.factorize.diagonalize import Diagonalize
from mercer.passes.factorize.merge_branches import MergeBranches
from mercer.passes.factorize.modes import Modes
from mercer.passes.factorize.nystrom import Nystrom
from mercer.passes.factorize.one_way import OneWay
from mercer.passes.factorize.projection import Projection
from mercer.passes.factorize.random_features import RandomFeatures
from mercer.passes.factorize.separable import Separable
from mercer.passes.factorize.sigma_delta import SigmaDelta
from mercer.passes.factorize.snnk import Snnk
from mercer.passes.factorize.structured import Structured
from mercer.passes.factorize.svd_linear import SvdLinear
from mercer.passes.factorize.thinning import Thinning
from mercer.passes.factorize.tucker_conv import TuckerConv
from mercer.passes.fft_convolution import FftConvolution
from mercer.passes.fold import Fold
from mercer.passes.fuse import Fuse
from mercer.passes.hoist import Hoist
from mercer.passes.manager import Lower, Pass, parse_pipeline
from mercer.passes.narrow import Narrow
from mercer.passes.narrow_bytes import NarrowBytes
from mercer.passes.narrow_reads import NarrowReads
from mercer.passes.narrow_samples import NarrowSamples
from mercer.passes.order_products import OrderProducts
from mercer.passes.pairwise import Pairwise
from mercer.passes.quantize.equalize import Equalize
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.rotate import Rotate
from mercer.passes.quantize.weight_only import WeightOnly
from mercer.passes.simplify import Simplify
from mercer.passes.winograd import Winograd

INFERENCE: tuple[Pass, ...] = (
    Bind(),
    Fold(),  # the kernels of continuous convolutions become weights, which batch_norm can scale
    BatchNorm(),
    Canonical(),
    Fold(),  # constants that canonical has brought together
    CommonSubexpressions(),
    DeadCode(),
    Lower(),
    NarrowSamples(),
    NarrowBytes(),
    Narrow(),  # before fuse, while the integers that it reads have nests of their own
    ExactFloat(),  # what is left
    NarrowReads(),  # of what now has narrower copies
    Pairwise(),  # before simplify, which hides squares, and before fuse, while a distance still stands alone
    Simplify(),
    ChunkScan(),  # before fuse, while factors stand alone
    OrderProducts(),  # before fold, which computes the products of constants
    Hoist(),  # before fuse, which makes it the epilogue of what it reads
    CompactSupport(),  # after hoist, which would store what it makes of a basis
    Fold(),  # the norms of constant centers
    Fuse(),
    ExactScale(),  # after fuse, which brings sums and their scales together
    CommonSubexpressions(),
    DeadCode(),
    FftConvolution(),  # last: its mark says how a nest is computed, not what
    Winograd(),
)
"""From a program with its weights to the nests that a backend compiles."""

FACTORIZE: tuple[type[Pass], ...] = (
    MergeBranches,
    Collapse,
    Associate,
    Separable,
    Structured,
    ConstantSolve,
    Diagonalize,
    SvdLinear,
    TuckerConv,
    CpConv,
    OneWay,
    RandomFeatures,
    SigmaDelta,
    Snnk,
    Nystrom,
    Thinning,
    Projection,
    Crop,
    Modes,
)
"""Other algebraic forms, for pipelines that name them: exact ones first, then approximations."""

QUANTIZE: tuple[type[Pass], ...] = (Equalize, Rotate, Quantize, WeightOnly)
"""From real numbers to integers, and what makes that lose less."""

PASSES: dict[str, type[Pass]] = {each.name: each for each in (*map(type, INFERENCE), *FACTORIZE, *QUANTIZE)}
"""Every pass by the name that a pipeline uses."""


def quantized(quantize: Quantize) -> tuple[Pass, ...]:
    """INFERENCE for a program in integers."""
    lower = next(position for position, each in enumerate(INFERENCE) if isinstance(each, Lower))
    return (*INFERENCE[:lower], quantize, CommonSubexpressions(), DeadCode(), *INFERENCE[lower:])


def parse(text: str) -> tuple[Pass, ...]:
    """The passes of a pipeline such as `fold,lower,fuse{max_ops=8}`; raises PipelineError."""
    return parse_pipeline(text, PASSES)
