//! Checks the invariants of a plan, apart from the code that makes plans.

use std::collections::BTreeSet;

use super::Plan;
use crate::graph::Input;
use crate::manifest::PartitionRole;

/// Returns every invariant that the plan breaks. A plan that breaks one is a fault of this program, not of a manifest.
pub fn check(plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    let mut known = BTreeSet::new();
    for step in &plan.steps {
        for input in step.inputs.values() {
            if let Input::Output { step: from, .. } = input
                && !known.contains(from.as_str())
            {
                broken.push(format!("step {:?} uses {from:?}, which is no earlier step", step.name));
            }
        }
        if !known.insert(step.name.as_str()) {
            broken.push(format!("two steps are named {:?}", step.name));
        }
        if !plan.tasks.contains_key(&step.name) {
            broken.push(format!("step {:?} has nothing to do", step.name));
        }
        for (name, value) in &step.parameters {
            // Keys must not depend on where the build runs.
            if value.starts_with("\"/home/") || value.starts_with("\"/tmp/") {
                broken.push(format!("parameter {name} of step {:?} is a path of this machine", step.name));
            }
        }
    }
    if plan.tasks.len() != plan.steps.len() {
        broken.push(format!("{} steps, {} tasks", plan.steps.len(), plan.tasks.len()));
    }
    let all = plan.disk.partitions.iter().map(|partition| partition.guid).chain(plan.disk.bios);
    let guids: BTreeSet<_> = all.clone().collect();
    if guids.len() != all.count() || guids.contains(&plan.disk.guid) {
        broken.push("two partitions have one GUID".to_owned());
    }
    for role in [PartitionRole::Esp, PartitionRole::SlotA, PartitionRole::SlotB, PartitionRole::Data] {
        if plan.disk.partitions.iter().filter(|partition| partition.role == role).count() != 1 {
            broken.push(format!("not exactly one partition is {role:?}"));
        }
    }
    let names: BTreeSet<_> = plan.artifacts.iter().map(|artifact| &artifact.file_name).collect();
    if names.len() != plan.artifacts.len() {
        broken.push("two artifacts have one name".to_owned());
    }
    broken
}
