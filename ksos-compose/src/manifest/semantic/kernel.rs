//! The kernel: command line, modules, required options.

use std::collections::BTreeMap;

use ksos_formats::layout;

use super::super::check::suggest;
use super::super::cmdline;
use super::super::diagnostic::{Code, Span};
use super::super::node::Node;
use super::super::types::{ModulePattern, RequiredOption};
use super::Context;

/// Parameters that the boot loader adds.
const SET_BY_LOADER: [&str; 4] = [layout::PARAM_SLOT, layout::PARAM_ESP, "BOOT_IMAGE", "initrd"];
/// Parameters of the runtime that a manifest may state, with their values.
const RUNTIME_PARAMETERS: [(&str, &[&str]); 1] = [(layout::PARAM_ROOT, &["slot", "ram"])];
/// Parameters that the runtime's initramfs does not look at: it finds the root file system by itself.
const WITHOUT_EFFECT: [&str; 5] = ["rootdelay", "rootwait", "ro", "rw", "resume"];

pub(super) fn check(context: &mut Context<'_>) {
    let Some(kernel) = context.tree.get("kernel") else { return };
    check_cmdline(context, kernel.get("cmdline"));
    for key in ["modules", "load", "initramfs-modules", "initramfs-drivers", "required-options-files"] {
        context.repeated(kernel.get(key), &format!("kernel.{key}"));
    }
    check_load(context, kernel);
    check_options(context, kernel.get("required-options"));
}

fn check_cmdline(context: &mut Context<'_>, list: Option<&Node>) {
    let mut seen: BTreeMap<String, (String, Span)> = BTreeMap::new();
    for (item, span) in list.into_iter().flat_map(Node::texts) {
        if context.diagnostics.has_error_at(span) {
            continue;
        }
        let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
        check_parameter(context, name, value, span);
        if let Some((first, place)) = seen.insert(cmdline::identity(item), (item.to_owned(), span)) {
            let message = match first == item {
                true => format!("\"{item}\" is on the kernel command line twice"),
                false => format!("\"{name}\" is on the kernel command line twice, with different values"),
            };
            context.clash(Code::Duplicate, span, message, "second", (place, "first"));
        }
    }
}

fn check_parameter(context: &mut Context<'_>, name: &str, value: Option<&str>, span: Span) {
    if SET_BY_LOADER.contains(&name) {
        let message = format!("the boot loader sets the kernel parameter \"{name}\"");
        context.error(Code::KernelParameter, span, message, "cannot be stated");
    } else if let Some(reason) = cmdline::forbidden(name) {
        let message = format!("the kernel parameter \"{name}\" must not be given: {reason}");
        context.error(Code::KernelParameter, span, message, "cannot be stated");
    } else if WITHOUT_EFFECT.contains(&name) {
        let message = format!("the kernel parameter \"{name}\" has no effect: the initramfs finds the root itself");
        context.warning(Code::KernelParameter, span, message, "has no effect");
    } else if name.starts_with("ksos.") {
        check_runtime_parameter(context, name, value, span);
    }
}

fn check_runtime_parameter(context: &mut Context<'_>, name: &str, value: Option<&str>, span: Span) {
    let Some((_, values)) = RUNTIME_PARAMETERS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = RUNTIME_PARAMETERS.iter().map(|(name, _)| *name).collect();
        let near = suggest::nearest(name, names.iter().copied());
        let error = context.error(
            Code::KernelParameter,
            span,
            format!("the runtime has no kernel parameter \"{name}\""),
            format!("expected one of {}", names.join(", ")),
        );
        error.hint = near.map(|near| format!("did you mean \"{near}\"?"));
        return;
    };
    if !value.is_some_and(|value| values.contains(&value)) {
        let choices: Vec<String> = values.iter().map(|value| format!("\"{name}={value}\"")).collect();
        let message = format!("\"{name}\" has no value \"{}\"", value.unwrap_or_default());
        context.error(Code::KernelParameter, span, message, format!("expected {}", choices.join(" or ")));
    }
}

/// `load` names modules of `modules`.
fn check_load(context: &mut Context<'_>, kernel: &Node) {
    let plain = |text: &str| text.replace('-', "_");
    let parse = |text: &str| text.parse::<ModulePattern>().ok();
    let packed: Vec<String> = kernel
        .get("modules")
        .into_iter()
        .flat_map(Node::texts)
        .filter_map(|(text, _)| Some(parse(text)?.pattern))
        .collect();
    for (text, span) in kernel.get("load").into_iter().flat_map(Node::texts) {
        let Some(module) = parse(text) else { continue };
        if module.pattern.contains('*') {
            let message = format!("`kernel.load` has the wildcard \"{text}\"");
            context.error(Code::InvalidValue, span, message, "expected the name of one module");
            continue;
        }
        let in_image = packed.iter().any(|pattern| matches(&plain(pattern), &plain(&module.pattern)));
        if !in_image {
            let near = suggest::nearest(&module.pattern, packed.iter().map(String::as_str));
            let message = format!("module \"{}\" is loaded and not in `kernel.modules`", module.pattern);
            let error = context.error(Code::UnknownReference, span, message, "expected a module of `kernel.modules`");
            error.hint = near.map(|near| format!("did you mean \"{near}\"?"));
        }
    }
}

/// Says whether `name` matches `pattern`, in which `*` is any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(position) = rest.find(part) else { return false };
        rest = &rest[position + part.len()..];
    }
    rest.ends_with(last)
}

fn check_options(context: &mut Context<'_>, list: Option<&Node>) {
    let mut seen: BTreeMap<String, (RequiredOption, Span)> = BTreeMap::new();
    for (text, span) in list.into_iter().flat_map(Node::texts) {
        let Ok(option) = text.parse::<RequiredOption>() else { continue };
        let Some((first, place)) = seen.insert(option.name.clone(), (option.clone(), span)) else { continue };
        let message = match first == option {
            true => format!("kernel option {} is required twice", option.name),
            false => format!("kernel option {} is required as {first} and as {option}", option.name),
        };
        context.clash(Code::Conflict, span, message, "second", (place, "first"));
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_match_any_text() {
        for (pattern, name) in [("nft_*", "nft_ct"), ("*", ""), ("a*b*c", "a1b2c"), ("a*b", "ab"), ("abc", "abc")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("nft_*", "nf_ct"), ("a*b", "a"), ("ab*ba", "aba"), ("abc", "abcd"), ("", "a")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
