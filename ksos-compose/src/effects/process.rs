//! Child processes (to come).
