"""The plug-in that Airflow loads: one page, and its entry in the navigation."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from plugins.page import ROUTE, create_app


class DeliveryEtaPlugin(AirflowPlugin):
    """Shows the state of the loop in Airflow's web interface."""

    name = "delivery_eta"
    fastapi_apps = [{"app": create_app(), "url_prefix": ROUTE, "name": "delivery-eta"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "delivery-eta",
            "href": f"{ROUTE}/",
            "destination": "nav",
            "url_route": "delivery-eta",
            "nav_top_level": True,
        }
    ]
