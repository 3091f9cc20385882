"""Typed settings, paths and URLs of every room. Nothing here touches a disk or a network."""

from config.settings import Settings, get_settings

__all__ = ["Settings", "get_settings"]
