"""Kernel machines over fewer centers and on projected inputs."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.frontend.library import default_library
from mercer.ir.graph import KernelValue
from mercer.passes.factorize.approximation import Approximation, compute
from mercer.passes.factorize.kernel_machines import distance, projected
from mercer.passes.factorize.nystrom import Nystrom, pivots
from mercer.passes.factorize.projection import Projection, projection
from mercer.passes.factorize.thinning import Thinning, greedy, halving
from mercer.passes.manager import PipelineError
from mercer.passes.pipeline import parse_pipeline
from tests.passes.factorize.approximations import Result, apply

RANDOM = np.random.default_rng(5)
CENTERS, DIM, OUT, GAMMA = 48, 6, 3, 0.15
VALUES = {
    "centers": RANDOM.normal(size=(CENTERS, DIM)).astype(np.float32),
    "weight": RANDOM.normal(size=(OUT, CENTERS)).astype(np.float32),
}
X = RANDOM.normal(size=(64, DIM)).astype(np.float32)


def model(kernel: str = f"gaussian(gamma = {GAMMA})", centers: int = CENTERS, dim: int = DIM) -> str:
    return f"""model M(x: f32[N, {dim}]) -> f32[N, {OUT}] {{
      param centers: f32[{centers}, {dim}] = normal(0, 1)
      param weight: f32[{OUT}, {centers}] = normal(0, 1)
      return kernel_machine(x, centers, weight; kernel = {kernel})
    }}"""


def thinned(each: Approximation, values: dict[str, np.ndarray] = VALUES) -> Result:
    return apply(model(), each, X, values)


def gram(points: np.ndarray = VALUES["centers"]) -> np.ndarray:
    kernel = KernelValue("gaussian", (("gamma", GAMMA),))
    return compute(default_library(), "kernel_matrix", (points, points), {"kernel": kernel})


def norm(weight: np.ndarray) -> float:
    return float(np.sqrt(np.einsum("om,mn,on->", weight, gram(), weight)))


# --- fewer centers ----------------------------------------------------------------------------------------------------


FEWER = {
    "nystrom": lambda count: Nystrom(count=count),
    "nystrom of uniform landmarks": lambda count: Nystrom(count=count, landmarks="uniform"),
    "greedy": lambda count: Thinning(count=count),
    "halving": lambda count: Thinning(count=count, method="halving"),
}


@pytest.mark.parametrize("name", FEWER)
def test_error_is_within_that_of_the_hilbert_space(name: str) -> None:
    """|f(x) - g(x)| <= |f - g| sqrt(k(x, x)), and k(x, x) = 1."""
    for count in (6, 24):
        result = thinned(FEWER[name](count))
        (machine,) = result.nodes("kernel_machine")
        centers, weight = (
            next(c.data.array for c in result.after.constants if c.name == operand) for operand in machine.operands[1:]
        )
        assert centers is not None and weight is not None and len(centers) <= count
        kept = [int(np.flatnonzero((VALUES["centers"] == center).all(axis=1))[0]) for center in centers]
        bound = distance(VALUES["weight"].astype(np.float64), weight.astype(np.float64), gram(), kept)
        left, right = result.outputs
        assert np.linalg.norm(left - right, axis=1).max() <= bound * (1 + 1e-6)
        assert bound < norm(VALUES["weight"])


@pytest.mark.parametrize("name", FEWER)
def test_error_falls_with_the_count(name: str) -> None:
    errors = [thinned(FEWER[name](count)).error for count in (3, 12, 47)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("name", FEWER)
def test_exact_at_the_rank_of_the_gram_matrix(name: str) -> None:
    """Every center stands there twice, so that half of them span everything (for halving: with the same weight)."""
    values = VALUES | {"centers": np.repeat(VALUES["centers"][:24], 2, axis=0)}
    if name == "halving":
        values["weight"] = np.repeat(VALUES["weight"][:, :24], 2, axis=1)
    count = 24 if "uniform" not in name else 47
    assert thinned(FEWER[name](count), values).error < 1e-4


def test_greedy_needs_as_many_centers_as_have_weight() -> None:
    weight = VALUES["weight"].copy()
    weight[:, 5:] = 0.0
    assert thinned(Thinning(count=5), VALUES | {"weight": weight}).error < 1e-6
    assert greedy(weight.astype(np.float64), gram(), 5) == [0, 1, 2, 3, 4]


def test_greedy_beats_landmarks_that_know_only_the_kernel() -> None:
    weight = VALUES["weight"].astype(np.float64)
    for count in (4, 8, 16):
        chosen = greedy(weight, gram(), count)
        best, plain, drawn = (
            distance(weight, projected(weight, gram(), kept), gram(), kept)
            for kept in (chosen, pivots(gram(), count), list(range(count)))
        )
        assert best < plain and best < drawn


def test_projection_in_the_hilbert_space_is_orthogonal() -> None:
    """Pythagoras: |f|**2 = |Pf|**2 + |f - Pf|**2."""
    weight, kept = VALUES["weight"].astype(np.float64), [1, 3, 8, 20]
    near = projected(weight, gram(), kept)
    spread = np.zeros_like(weight)
    spread[:, kept] = near
    assert norm(weight) ** 2 == pytest.approx(norm(spread) ** 2 + distance(weight, near, gram(), kept) ** 2)


def test_halving_keeps_a_density_better_than_a_random_subset() -> None:
    """Maximum mean discrepancy of 32 of 256 points; Dwivedi and Mackey 2021, figure 1."""
    points = np.random.default_rng(0).normal(size=(256, 2))
    inner = gram(points)

    def discrepancy(kept: list[int]) -> float:
        rest = np.full(256, 1 / 256)
        rest[kept] -= 1 / len(kept)
        return float(np.sqrt(rest @ inner @ rest))

    seeds = range(8)
    balanced = [discrepancy(halving(inner, 32, np.random.default_rng(seed))) for seed in seeds]
    drawn = [discrepancy(list(np.random.default_rng(seed).choice(256, 32, replace=False))) for seed in seeds]
    assert np.mean(balanced) < 0.5 * np.mean(drawn)


def test_halving_without_refit_doubles_weights() -> None:
    result = thinned(Thinning(count=24, method="halving", refit=False))
    (machine,) = result.nodes("kernel_machine")
    arrays = {c.name: c.data.array for c in result.after.constants}
    centers, weight = (arrays[name] for name in machine.operands[1:])
    assert centers is not None and weight is not None
    places = [int(np.flatnonzero((VALUES["centers"] == center).all(axis=1))[0]) for center in centers]
    assert np.array_equal(weight, 2 * VALUES["weight"][:, places])
    assert result.error > thinned(Thinning(count=24, method="halving")).error


def test_multiply_adds_fall_by_the_share_of_centers() -> None:
    entry = thinned(Nystrom(count=12)).fired
    assert entry.cost_before and entry.cost_after and entry.cost_before.flops == 4 * entry.cost_after.flops


# --- projections ------------------------------------------------------------------------------------------------------


def test_projection_error_falls_with_the_dimension() -> None:
    """Squared distances are off by sqrt(2/dim) of themselves, so four times the dimension halves the error."""
    random = np.random.default_rng(2)
    values = {
        "centers": random.normal(size=(CENTERS, 128)).astype(np.float32),
        "weight": np.abs(random.normal(size=(OUT, CENTERS))).astype(np.float32),
    }
    x = random.normal(size=(32, 128)).astype(np.float32)
    text = model("gaussian(gamma = 0.004)", dim=128)
    for matrix in ("orthogonal", "normal", "sign"):
        errors = [
            np.mean(
                [
                    apply(text, Projection(dim, matrix, seed), x, values, verify_each=seed == 0).error
                    for seed in range(6)
                ]
            )
            for dim in (4, 16)
        ]
        assert errors[1] < 0.65 * errors[0]


@pytest.mark.parametrize("matrix", ["orthogonal", "normal", "sign"])
def test_projections_keep_norms_in_the_mean(matrix: str) -> None:
    vector = np.random.default_rng(0).normal(size=20)
    squares = [float(np.sum((projection(matrix, 5, 20, seed) @ vector) ** 2)) for seed in range(2000)]
    assert np.mean(squares) == pytest.approx(float(vector @ vector), rel=0.05)


def test_full_orthogonal_projection_is_exact() -> None:
    full = projection("orthogonal", 20, 20, 0)
    assert np.allclose(full @ full.T, np.eye(20))


def test_inputs_of_a_subspace_lose_little() -> None:
    assert apply(model(), Projection(dim=5), X, VALUES).error < 1.0


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (Nystrom(count=48), "48 landmarks are not between 1 and 47; there are 48 centers"),
        (Nystrom(count=0), "0 landmarks are not between"),
        (Thinning(count=48), "48 centers are not between 1 and 47; there are 48"),
        (Thinning(count=8, refit=False), "greedy selection fits the weights"),
        (Projection(dim=7), "7 dimensions are not between 1 and the 6 of the input"),
        (Projection(dim=6), "operations would take the place of"),
        (Nystrom(count=2, max_error=0.01), "exceeds max_error"),
    ],
)
def test_refusals(each: Approximation, reason: str) -> None:
    assert reason in thinned(each).reason


@pytest.mark.parametrize("each", [Nystrom(), Thinning(), Projection()])
def test_centers_that_are_not_bound_are_refused(each: Approximation) -> None:
    assert apply(model(), each, X, bind=False).reason == "the centers %centers is not a constant"


@pytest.mark.parametrize("each", [Nystrom(count=8), Thinning(count=8)])
def test_kernels_that_are_not_positive_are_refused(each: Approximation) -> None:
    text = "kernel distance(x, y) = -sqdist(x, y)\n" + model("distance()")
    assert "has the negative eigenvalue" in apply(text, each, X, VALUES).reason


def test_kernels_of_other_distances_are_not_projected() -> None:
    reason = apply(model("laplace(gamma = 0.1)"), Projection(dim=2), X, VALUES).reason
    assert reason == "the kernel laplace is not known to depend on distances or dot products alone"


@pytest.mark.parametrize("text", ["nystrom{landmarks=pivot}", "thinning{method=half}", "projection{matrix=normals}"])
def test_unknown_choices(text: str) -> None:
    available = {"nystrom": Nystrom, "thinning": Thinning, "projection": Projection}
    with pytest.raises(PipelineError, match="cannot be"):
        parse_pipeline(text, available)
