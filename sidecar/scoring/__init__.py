"""Models on the device: the only package through which the server imports torch, and only where it is needed."""

import os

# OpenMP's threads wait for each other after every operation. By default they spin so long that they keep the cores from
# the threads they wait for: with two busy neighbours on two cores, 100 pairs took 26 s; sleeping at once, 2.8 s. But
# sleeping and waking takes longer than most waits: on two AMX cores 100 pairs took 230 ms sleeping at once, 204 ms
# after 3,000 spins (some 50 us), 194 ms after 10,000; with two busy neighbours 318, 347 and 432 ms. OpenMP reads these
# variables when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
