"""Every kind of fitted model, and whether one fits its schema."""

from privae.errors import UsageError
from privae.fitted.anomalies import Anomalies, FittedDetection, FittedImageDetection
from privae.fitted.images import FittedImages
from privae.fitted.ratings import FittedRatings
from privae.fitted.series import FittedSeries, FittedSeriesNetwork
from privae.fitted.table import FittedTable
from privae.models.image import ImageModel
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical
from privae.models.preferences import PreferenceModel, PreferenceNetwork
from privae.models.table import TableModel

Fitted = FittedTable | FittedImages | FittedDetection | FittedImageDetection
"""A fitted model together with the public schema that its records are read by."""
AnyFitted = Fitted | FittedRatings | FittedSeries | FittedSeriesNetwork


def belongs(fitted: AnyFitted) -> bool:
    """Whether a model takes the records of its schema, so that none makes it fail or fill the memory."""
    if isinstance(fitted, Anomalies | FittedSeriesNetwork):
        return fitted.belongs()
    if isinstance(fitted, FittedRatings):
        try:
            fitted.schema.check()
        except UsageError:
            return False
        known = isinstance(fitted.model, PreferenceModel | PreferenceNetwork)
        return known and fitted.schema.items != "bought" and len(fitted.schema.items) == fitted.model.known
    if isinstance(fitted, FittedTable):
        table, sizes = fitted.model, tuple(fitted.codec.sizes.tolist())
        if isinstance(table, TableModel):
            return table.sizes == sizes and table.label in (None, fitted.codec.label)
        return isinstance(table.likelihood, Categorical) and table.likelihood.sizes == sizes
    model, pixels = fitted.model, fitted.schema.height * fitted.schema.width
    if isinstance(model, LatentModel):
        return pixels == model.likelihood.size
    return isinstance(model, ImageModel) and pixels == model.height * model.width
