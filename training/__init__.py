"""From orders and features to a gated, registered model."""

import os

# Before scikit-learn loads OpenMP: threads that wait by spinning made the same fit take 47 s instead of 5-11 s on two
# cores that had other work to do, as those of a machine that also serves and schedules have.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
