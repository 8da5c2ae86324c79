"""The C++ kernels and their Python interface."""
