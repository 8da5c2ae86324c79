"""The version, defined here alone."""

VERSION = "0.1.0"
