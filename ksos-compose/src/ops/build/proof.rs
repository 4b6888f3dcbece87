//! Build-time proof (to come).
use crate::cache::Cache;
use crate::manifest::Manifest;
use crate::ops::OpError;
use crate::plan::Plan;
use crate::tree::Tree;
/// stub
pub fn check_root(_: &Manifest, _: &Plan, _: &Tree, _: &Tree, _: &[(String, String)], _: &Cache) -> Result<(), OpError> { Ok(()) }
