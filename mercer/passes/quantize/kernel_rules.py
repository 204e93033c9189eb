"""Integer forms of kernel machines, random features, radial basis functions and splines: distances and tables."""

from __future__ import annotations

import numpy as np

from mercer.ir.graph import KernelValue, Node
from mercer.passes.factorize.approximation import compute
from mercer.passes.quantize.ranges import Codes, Encoding, Matrix, aligned, encoding, weight_codes
from mercer.passes.quantize.rounding import rounded, weight_of
from mercer.passes.quantize.translation import Form, NoIntegerForm, Rule, Sums, Translation

_ISOTROPIC = frozenset(
    "gaussian matern12 matern32 matern52 inverse_multiquadric rational_quadratic wendland thin_plate".split()
)
_COMPOSED = frozenset(("kernel_sum", "kernel_product", "kernel_scale"))


def _kernel_machine(t: Translation, node: Node) -> Form:
    """Distances (or products) of integers, the kernel as a table of them, a linear map."""
    kernel, centers = node.attribute("kernel"), _constant(t, node.operands[1])
    weight = _constant(t, node.operands[2])
    assert isinstance(kernel, KernelValue)
    measure = measure_of(kernel)
    x, codes = _covering(t, node.operands[0], centers)
    places = codes.encode(centers)
    distances = _distances(t, measure, x, codes, places)
    points = None
    if t.ranges is None:
        points = compute(t.library, measure, [t.samples[node.operands[0]], codes.decode(places)])
    scaled, index = _index(t, distances, measured(node), points)
    values = _kernel(t, kernel, measure, index.decode(np.arange(index.low, index.high + 1)))
    return _expansion(t, scaled, index, values, weight, points)


def _rbf_field(t: Translation, node: Node) -> Form:
    """Squared distances with integer precisions, exp(-d/2) as a table, a linear map."""
    centers, precision, weight = (_constant(t, name) for name in node.operands[1:])
    x, codes = _covering(t, node.operands[0], centers)
    places = codes.encode(centers)
    sharpness, scales = weight_codes(np.square(precision), 8, 0)
    low, high = codes.reach
    dims = centers.shape[1]
    reach = t.bounded(int(sharpness.astype(np.int64).sum(axis=1).max(initial=0)) * (high - low) ** 2, dims)
    wide = [t.emit("widen", t.constant(places, "centers"), zero=codes.zero)]
    wide.append(t.emit("widen", t.constant(sharpness, "precision")))
    sums = Sums(t.emit("weighted_squared_distances", x, *wide), codes.scale**2 * scales, 0, reach)
    points = None
    if t.ranges is None:
        difference = t.samples[node.operands[0]][:, None] - codes.decode(places)
        points = np.square(difference * precision).sum(axis=-1)
    scaled, index = _index(t, sums, measured(node), points)
    values = np.exp(-index.decode(np.arange(index.low, index.high + 1)) / 2)
    return _expansion(t, scaled, index, values, weight, points)


def _random_fourier_features(t: Translation, node: Node) -> Form:
    """Integer phases modulo one period, and the cosine as a table."""
    wrapped, index = phases(t, node)
    count = _constant(t, node.operands[2]).size
    values = np.sqrt(2.0 / count) * np.cos(index.decode(np.arange(index.low, index.high + 1)))
    return _tabulated(t, wrapped, index, values)


def _kan_linear(t: Translation, node: Node) -> Form:
    """One table per edge: what an input contributes to an output is a function of its code."""
    if t.real_types[node.operands[0]].rank != 2:
        raise NoIntegerForm("its input is not a matrix")
    weights = [_constant(t, name) for name in node.operands[1:]]
    x = t.coded(node.operands[0])
    outputs, inputs = weights[0].shape
    points = x.encoding.decode(np.arange(x.encoding.low, x.encoding.high + 1))
    attributes = dict(node.attributes)
    rest = compute(t.library, "kan_linear", [np.zeros((1, inputs)), *weights], attributes)[0]
    edges = np.empty((outputs, inputs, len(points)))
    for place in range(inputs):
        rows = np.zeros((len(points), inputs))
        rows[:, place] = points
        edges[:, place] = (compute(t.library, "kan_linear", [rows, *weights], attributes) - rest).T
    edges += rest[:, None, None] / inputs
    table, scales = weight_codes(edges, 8, 0 if t.options.per_channel else None)
    bound = t.bounded(int(np.abs(table.astype(np.int64)).max(axis=2).sum(axis=1).max(initial=0)), inputs)
    result = t.emit("edge_lookup", x.name, t.constant(table, "table"), low=x.encoding.low)
    return Sums(result, aligned(scales), -bound, bound)


KERNELS: dict[str, Rule] = {
    "kernel_machine": _kernel_machine,
    "rbf_field": _rbf_field,
    "random_fourier_features": _random_fourier_features,
    "kan_linear": _kan_linear,
}


# --- distances --------------------------------------------------------------------------------------------------------


def _constant(t: Translation, name: str) -> Matrix:
    array = t.known(name)
    if array is None:
        raise NoIntegerForm(f"%{name} is not a constant")
    return array


def phases(t: Translation, node: Node) -> tuple[str, Encoding]:
    """frequency . x + phase of random features, as codes of one period."""
    frequency, phase = (_constant(t, name) for name in node.operands[1:])
    x = t.narrow(node.operands[0])
    codes, scales = weight_of(t, node, frequency, 0)
    bound = int(np.abs(codes.astype(np.int64)).sum(axis=1).max(initial=0)) * max(-x.low, x.high)
    sums = t.emit("linear", x.name, t.emit("widen", t.constant(codes, "codes")))
    unit = x.scale * scales
    bias = np.rint(phase / unit)
    t.bounded(bound + int(np.abs(bias).max(initial=0)), frequency.shape[1])
    shifted = Sums(t.emit("add", sums, t.constant(bias.astype(np.int32), "bias")), unit, -bound, bound)
    bits = t.options.table_bits
    period = 2 * np.pi / (1 << bits)
    return t.requantized(shifted, period, "wrap", bits=bits), Encoding(period, 0, 0, (1 << bits) - 1)


def measured(node: Node) -> str:
    """What the range of the distances in a kernel machine or field is called."""
    return f"{node.name}.distances"


def measure_of(kernel: KernelValue) -> str:
    """The operator whose result the kernel is a function of."""
    if kernel.name == "laplace":
        return "l1_distances"
    if kernel.name == "polynomial":
        return "linear"
    if _isotropic(kernel):
        return "squared_distances"
    raise NoIntegerForm(f"the kernel {kernel.name} is not a function of a distance or a product")


def _isotropic(kernel: KernelValue) -> bool:
    parts = [value for _, value in kernel.attributes if isinstance(value, KernelValue)]
    return kernel.name in _ISOTROPIC or (kernel.name in _COMPOSED and all(map(_isotropic, parts)))


def _covering(t: Translation, name: str, centers: Matrix) -> tuple[str, Encoding]:
    """The value as i32 relative to its zero, in codes that hold the centers too."""
    codes = t.coded(name)
    low, high = (codes.encoding.scale * end for end in codes.encoding.reach)
    if low <= centers.min() and centers.max() <= high:
        return t.emit("widen", codes.name, zero=codes.encoding.zero), codes.encoding
    wider = encoding(min(low, float(centers.min())), max(high, float(centers.max())), t.options.activations)
    limits = {"zero": wider.zero, "low": wider.low, "high": wider.high}
    recoded = t.requantized(t.sums(name), wider.scale, "requantize", **limits)
    return t.emit("widen", recoded, zero=wider.zero), wider


def _distances(t: Translation, measure: str, x: str, codes: Encoding, places: Codes) -> Sums:
    low, high = codes.reach
    dims = places.shape[1]
    largest = max(-low, high) if measure == "linear" else high - low
    reach = t.bounded(dims * (largest if measure == "l1_distances" else largest**2), dims)
    wide = t.emit("widen", t.constant(places, "centers"), zero=codes.zero)
    unit = codes.scale if measure == "l1_distances" else codes.scale**2
    return Sums(t.emit(measure, x, wide), np.asarray(unit), -reach if measure == "linear" else 0, reach)


def _index(t: Translation, sums: Sums, name: str, points: Matrix | None) -> tuple[str, Encoding]:
    """Codes to look a function of the sums up by, as fine as tables are."""
    count = 1 << t.options.table_bits
    low, high = t.extent(name, points)
    scale = max(high - low, 1e-12) / (count - 1)
    first = int(np.floor(low / scale))
    index = Encoding(scale, 0, first, first + count - 1)
    return t.requantized(sums, scale, "rescale", low=index.low, high=index.high), index


def _kernel(t: Translation, kernel: KernelValue, measure: str, points: Matrix) -> Matrix:
    """The kernel as a function of what is measured, from pairs of numbers that are as far apart."""
    places = np.sqrt(np.maximum(points, 0.0)) if measure == "squared_distances" else points
    other = np.ones((1, 1)) if measure == "linear" else np.zeros((1, 1))
    return compute(t.library, "kernel_matrix", [places[:, None], other], {"kernel": kernel})[:, 0]


def _tabulated(t: Translation, index: str, codes: Encoding, values: Matrix) -> Sums:
    """A table over these codes, as integers relative to their zero."""
    result = _encoding_of(t, values)
    found = t.looked_up(index, codes, result.encode(values))
    low, high = result.reach
    return Sums(t.emit("widen", found, zero=result.zero), np.asarray(result.scale), low, high)


def _encoding_of(t: Translation, values: Matrix) -> Encoding:
    return encoding(float(values.min()), float(values.max()), t.options.activations)


def _expansion(
    t: Translation, index: str, codes: Encoding, values: Matrix, weight: Matrix, points: Matrix | None
) -> Sums:
    """The linear map weight[o, m] of a table; `points` are what it is looked up by, on the data."""
    features = _tabulated(t, index, codes, values)
    seen = None
    if points is None:
        rows, scales = weight_codes(weight, t.options.weights, 0 if t.options.per_channel else None, t.options.codes)
    else:
        stored = _encoding_of(t, values)
        places = np.clip(np.rint(points / codes.scale), codes.low, codes.high).astype(np.int64) - codes.low
        seen = stored.decode(stored.encode(values))[places]
        found, scales = rounded(t.options, weight[None], seen[None], shared=not t.options.per_channel)
        rows = found[0]
    reach = int(np.abs(rows.astype(np.int64)).sum(axis=1).max(initial=0)) * max(-features.low, features.high)
    bound = t.bounded(reach, weight.shape[1])
    result = t.emit("linear", features.name, t.emit("widen", t.constant(rows, "codes")))
    offset = np.zeros(())
    if t.options.bias_correction and seen is not None:
        offset = seen.mean(axis=0) @ (weight - rows * scales[:, None]).T
    return Sums(result, features.scale * aligned(scales), -bound, bound, offset)
