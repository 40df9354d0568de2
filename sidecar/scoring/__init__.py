"""The device: the only room that imports torch, and only in the modules that need it."""

import os

# OpenMP's threads wait for each other after every operation. Spinning, as they do by default, they keep the cores from
# whoever they wait for: with two busy neighbours on two cores, 100 pairs took 26 s; sleeping, 2.8 s. OpenMP reads this
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
