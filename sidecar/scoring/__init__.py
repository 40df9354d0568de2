"""The device: the only room that imports torch, and only in the modules that need it."""
