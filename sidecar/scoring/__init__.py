"""The device: the only room that imports torch, and only in the modules that need it."""

import os

# OpenMP's threads wait for each other after every operation. Spinning as long as they do by default, they keep the
# cores from whoever they wait for: with two busy neighbours on two cores, 100 pairs took 26 s; sleeping at once, 2.8 s.
# But to sleep and wake takes longer than most waits: on two AMX cores 100 pairs took 230 ms sleeping at once, 204 ms
# after 3,000 turns (some 50 us), 194 ms after 10,000; with two busy neighbours 318, 347 and 432 ms. OpenMP reads this
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
