"""How the rows of each view are computed: facts of orders, hourly tiles of integers, sums over windows of tiles."""
