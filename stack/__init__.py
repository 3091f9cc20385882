"""Starts, watches and stops the embedded services, and runs the whole loop once."""
