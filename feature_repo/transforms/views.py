"""The transforms of all views, by the view's name."""

from feature_repo.transforms import customer_stats, driver_stats, restaurant_stats, zone_stats
from feature_repo.transforms.spec import ViewTransform

TRANSFORMS: dict[str, ViewTransform] = {
    module.TRANSFORM.view: module.TRANSFORM for module in (restaurant_stats, driver_stats, customer_stats, zone_stats)
}
