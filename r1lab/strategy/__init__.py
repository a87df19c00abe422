"""How a run is spread over processes: Lightning's strategies, and what a sharded model asks of those that use it."""
