"""How long things take, as ratios of two things run in turn on one machine: `make bench` runs each bench_*.py."""
