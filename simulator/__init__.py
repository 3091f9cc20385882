"""A seeded delivery marketplace that writes order files and nothing else."""
