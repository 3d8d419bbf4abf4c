"""What needs a queue: Slurm, a MongoDB and jobflow-remote's runner, all on this machine (`make test-cluster`)."""
