"""Feast plug-ins: an offline store that joins as of an instant, an online store in which the latest value wins.

Feast imports the store classes while it reads `feature_store.yaml`, and so imports this package before it opens the
registry. That makes it the place at which SQLAlchemy learns of the plugin named in the registry's URL.
"""

from sqlalchemy.dialects import plugins

plugins.register("delivery_eta_registry", "feature_repo.stores.registry", "RegistryFromSettings")
