"""Orthogonal matrices and scales, learned so that codes of what is between two linear maps lose little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mercer.passes.quantize.ranges import Matrix

_POWERS = (8.0, 16.0, 32.0)
"""Norms in place of the maximum, one after the other."""
_SHRINK = 0.5
_GROW = 1.5
_LEAST_STEP = 1e-9


@dataclass(frozen=True)
class Transform:
    """u = s * (R x) in place of x, and W R^T / s in place of a weight W: rotation[d, d] is orthogonal, scale[d] > 0."""

    rotation: Matrix
    scale: Matrix

    def forth(self, x: Matrix) -> Matrix:
        """Rows x[n, d]."""
        return x @ self.rotation.T * self.scale

    def back(self, weight: Matrix) -> Matrix:
        """Rows of the weight[o, d] that x is multiplied with."""
        return weight @ self.rotation.T / self.scale


def unchanged(channels: int) -> Transform:
    """The transform that does nothing."""
    return Transform(np.eye(channels), np.ones(channels))


def learned(x: Matrix, weight: Matrix, start: Matrix, steps: int) -> Transform:
    """A transform with little `noise` for rows x[n, d] and weight[o, d], from an orthogonal matrix start[d, d].

    Descent along Cayley transforms, which stay orthogonal (Wen and Yin 2013; Hu et al. 2025, OSTQuant), with the
    logarithms of the scales, for each of some norms that come closer to the maximum. The best one by `noise` is kept,
    which may be the first.
    """
    best = current = Transform(start, np.ones(len(start)))
    least, identity = noise(best, x, weight), np.eye(len(start))
    for power in _POWERS:
        step, loss = 1.0, _loss(current, x, weight, power)
        for _ in range(steps // len(_POWERS)):
            turn, stretch = _slopes(current, x, weight, power)
            while step > _LEAST_STEP:
                half = step / 2 * turn
                turned = np.linalg.solve(identity + half, (identity - half) @ current.rotation)
                tried = Transform(np.asarray(turned, np.float64), current.scale * np.exp(-step * stretch))
                if (reached := _loss(tried, x, weight, power)) < loss:
                    break
                step *= _SHRINK
            else:
                break
            current, loss, step = tried, reached, step * _GROW
        if (found := noise(current, x, weight)) < least:
            best, least = current, found
    return best


def noise(transform: Transform, x: Matrix, weight: Matrix) -> float:
    """The squared error of x W^T, in units of a constant: codes of u have one step, those of the weight one per row, in
    parts of the largest element, and their errors are even (Bennett 1948)."""
    u, v = transform.forth(x), transform.back(weight)
    rows = np.square(np.abs(v).max(axis=1)).sum()
    return float(np.square(u).max() * np.square(v).sum() + rows * np.square(u).sum(axis=1).mean())


def _loss(transform: Transform, x: Matrix, weight: Matrix, power: float) -> float:
    """The logarithm of the noise with a norm in place of the maximum."""
    u, v = transform.forth(x), transform.back(weight)
    (first, _), (second, _) = _largest(u.reshape(1, -1), power), _largest(v, power)
    return float(np.log(first.sum() * np.square(v).sum() + second.sum() * np.square(u).sum(axis=1).mean()))


def _largest(rows: Matrix, power: float) -> tuple[Matrix, Matrix]:
    """The square of the norm of each row, and its slope by the elements."""
    most = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30)
    parts = np.abs(rows) / most
    sums = (parts**power).sum(axis=1, keepdims=True)
    square = most**2 * sums ** (2 / power)
    return square[:, 0], 2 * square * parts ** (power - 1) * np.sign(rows) / (most * sums)


def _slopes(transform: Transform, x: Matrix, weight: Matrix, power: float) -> tuple[Matrix, Matrix]:
    """By a turn, a skew matrix, and by the logarithms of the scales."""
    u, v = transform.forth(x), transform.back(weight)
    (first, by_u), (second, by_v) = _largest(u.reshape(1, -1), power), _largest(v, power)
    size_u, size_v = np.square(u).sum(axis=1).mean(), np.square(v).sum()
    total = first.sum() * size_v + second.sum() * size_u
    along_u = (by_u.reshape(u.shape) * size_v + second.sum() * 2 * u / len(u)) / total
    along_v = (first.sum() * 2 * v + by_v * size_u) / total
    stretch = (along_u * u).sum(axis=0) - (along_v * v).sum(axis=0)
    slope = (along_u * transform.scale).T @ x + (along_v / transform.scale).T @ weight
    turn = slope @ transform.rotation.T
    return turn - turn.T, stretch
