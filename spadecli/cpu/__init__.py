"""The generator's inference form for CPUs: the same function of semantic map and z, computed by tables."""
