"""The transforms of all views, by the view's name."""

from feature_repo.transforms import customer_stats, driver_stats, restaurant_stats, zone_live, zone_stats
from feature_repo.transforms.spec import ViewTransform

TRANSFORMS: dict[str, ViewTransform] = {
    module.TRANSFORM.view: module.TRANSFORM
    for module in (restaurant_stats, driver_stats, customer_stats, zone_stats, zone_live)
}
LIVE = {view: transform for view, transform in TRANSFORMS.items() if transform.is_live}
"""Those that are kept up to date between the hourly runs."""
