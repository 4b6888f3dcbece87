//! What a schema cannot say.

use super::check::HostPathUse;
use super::diagnostic::Diagnostics;
use super::files::Files;
use super::merge::Disabled;
use super::node::Node;

/// Checks the meaning of a merged manifest.
pub(super) fn check(_: &Node, _: &Disabled, _: &[HostPathUse], _: &dyn Files, _: &mut Diagnostics) {}
