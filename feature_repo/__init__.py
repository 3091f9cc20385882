"""What a feature is, how its rows are computed, and where they are kept."""
