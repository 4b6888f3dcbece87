//! The one binary on a node: `/init`, PID 1, supervision, module loading.
