//! Downloads (to come).
