"""The classifiers that measure: logistic regression and gradient boosting over the schema's cells.

Their settings are public and the same for real and for synthetic rows, so only the rows make a difference.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from privae.data.codec import Codec

Codes = NDArray[np.integer[Any]]
"""Places of cells [n, m]; -1 is a value that the schema has no cell for."""

_TREES = 200  # at most, over all classes
_ROUNDS = 100
_CATEGORIES = 255  # more than sklearn's boosting takes in one categorical column are read as an order


def onehot(codes: Codes, sizes: Codes) -> Any:  # noqa: ANN401  a scipy sparse matrix
    """One 1 a column, at the cell of its code; nothing for -1. Shapes: [n, m] -> sparse [n, D]."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows, columns = np.nonzero(codes >= 0)
    places = offsets[columns] + codes[rows, columns]
    return sparse.csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(codes), int(offsets[-1])))


def boosting(categorical: NDArray[np.bool_] | None, classes: int = 2, seed: int = 0) -> Any:  # noqa: ANN401
    """Gradient boosting: 100 rounds for two classes, fewer for more, so that it never has more than 200 trees."""
    rounds = min(_ROUNDS, max(1, _TREES // classes))
    return HistGradientBoostingClassifier(
        categorical_features=categorical, random_state=seed, max_iter=rounds
    )


def categorical(codec: Codec, columns: Sequence[int]) -> NDArray[np.bool_]:
    """Which of these columns boosting reads as categories: those that are no numbers, up to 255 cells."""
    return np.array(
        [codec.schema.kept[i].kind != "numeric" and codec.sizes[i] <= _CATEGORIES for i in columns],
        dtype=bool,
    )


def logistic(iterations: int) -> Any:  # noqa: ANN401
    """Logistic regression with scikit-learn's ridge."""
    return LogisticRegression(max_iter=iterations)


def fitted(model: Any, x: Any, y: Any) -> Any:  # noqa: ANN401
    """The trained model. Edges: a logistic regression that ends before it has converged is as good as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)
