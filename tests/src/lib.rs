//! Shared helpers for the command-line, reproducibility and boot tests.
