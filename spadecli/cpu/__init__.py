"""The generator's inference form: the same function of the map and z, several times faster on a CPU."""
