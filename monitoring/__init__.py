"""Compares predictions with what really happened, and reports a verdict; it changes nothing."""
