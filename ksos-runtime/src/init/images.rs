//! Container images that the image carries: imported into containerd by a service of our own.
//!
//! When there are images and a service named `containerd`, a one-shot service [`SERVICE`] is added after it, which
//! runs this binary as `import-images`; every service that is after `containerd` is after it too. An image is imported
//! when containerd does not list it, or when it came from another root image.

use std::collections::BTreeMap;
use std::io::Write;

use ksos_formats::layout;
use ksos_formats::runtime::{LogTarget, ReadyProbe, RestartPolicy, RuntimeConfig, ServiceConfig};

use crate::sys::Sys;

use super::Error;
use super::data::find_program;
use super::handover::{Handover, read_document};

/// Name of the service that imports images.
pub(super) const SERVICE: &str = "container-images";
/// The service that images are imported into.
const CONTAINERD: &str = "containerd";
/// containerd namespace (the one that Kubernetes uses).
const NAMESPACE: &str = "k8s.io";

/// Returns the services with the importing one added where it belongs, and what is wrong.
pub(super) fn with_import(config: &RuntimeConfig) -> (BTreeMap<String, ServiceConfig>, Option<String>) {
    let mut services = config.services.clone();
    if config.container_images.is_empty() {
        return (services, None);
    }
    if !services.contains_key(CONTAINERD) {
        let reason = format!("container images are not imported: there is no service named {CONTAINERD}");
        return (services, Some(reason));
    }
    for (name, service) in &mut services {
        if name != CONTAINERD && service.after.iter().any(|other| other == CONTAINERD) {
            service.after.push(SERVICE.to_owned());
        }
    }
    services.insert(SERVICE.to_owned(), import_service());
    (services, None)
}

fn import_service() -> ServiceConfig {
    ServiceConfig {
        command: vec![layout::RUNTIME_BINARY.to_owned(), "import-images".to_owned()],
        environment: BTreeMap::new(),
        after: vec![CONTAINERD.to_owned()],
        restart: RestartPolicy::OnFailure,
        restart_delay_ms: 1000,
        restart_delay_max_ms: 30_000,
        stop_timeout_ms: 5000,
        ready: ReadyProbe::Exited,
        required: true,
        oom_score_adjust: 0,
        limit_nofile: None,
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: LogTarget::Console,
        apparmor: None,
    }
}

/// The applet: imports what is missing. Returns its exit status.
pub fn import(sys: &dyn Sys, out: &mut dyn Write) -> i32 {
    match import_missing(sys, out) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(out, "{error}");
            1
        }
    }
}

fn import_missing(sys: &dyn Sys, out: &mut dyn Write) -> Result<(), Error> {
    let config: RuntimeConfig = read_document(sys, layout::RUNTIME_CONFIG)?;
    let handover = Handover::read(sys)?;
    let ctr = find_program(sys, "ctr")?;
    let marker = format!("{}/ksos/imported.json", config.data.mount);
    let mut imported: BTreeMap<String, String> = read_document(sys, &marker).unwrap_or_default();
    let listed = run(sys, &[&ctr, "-n", NAMESPACE, "images", "ls", "-q"])?;
    for image in &config.container_images {
        let origin = format!("{} {}", handover.root_sha256, image.archive);
        let present = listed.lines().any(|line| line.trim() == image.reference);
        if present && imported.get(&image.reference) == Some(&origin) {
            continue;
        }
        let start = sys.uptime_ms();
        run(sys, &[&ctr, "-n", NAMESPACE, "images", "import", &image.archive])?;
        let _ = writeln!(out, "imported {} in {} ms", image.reference, sys.uptime_ms().saturating_sub(start));
        imported.insert(image.reference.clone(), origin);
        if let Ok(text) = serde_json::to_vec(&imported) {
            // Without the note the image is imported again at the next boot, which costs time only.
            let _ = sys.replace(&marker, &text, 0o644);
        }
    }
    Ok(())
}

fn run(sys: &dyn Sys, arguments: &[&str]) -> Result<String, Error> {
    let (exit, output) = sys.run(arguments)?;
    if exit.success() {
        return Ok(output);
    }
    Err(Error::Program { program: arguments.join(" "), exit, output })
}

#[cfg(test)]
mod tests {
    use ksos_formats::runtime::ContainerImage;

    use super::super::node::tests::{config, node};
    use super::*;
    use crate::sys::Exit;
    use crate::sys::double::Double;

    fn with_image() -> RuntimeConfig {
        let image = ContainerImage {
            reference: "docker.io/library/hello:1".to_owned(),
            archive: "/usr/share/hello.tar".to_owned(),
        };
        RuntimeConfig { container_images: vec![image], ..config() }
    }

    #[test]
    fn services_after_containerd_wait_for_the_import() {
        let mut config = with_image();
        assert!(with_import(&config).1.expect("a problem").contains("no service named containerd"));
        config.services.insert("containerd".to_owned(), import_service());
        config.services.insert("hello".to_owned(), import_service());
        config.services.insert("other".to_owned(), ServiceConfig { after: Vec::new(), ..import_service() });
        let (services, problem) = with_import(&config);
        assert_eq!(problem, None);
        assert_eq!(services["hello"].after, ["containerd", SERVICE]);
        assert!(services["other"].after.is_empty());
        assert!(services.contains_key(SERVICE));
        config.container_images.clear();
        assert_eq!(with_import(&config).0, config.services);
    }

    #[test]
    fn imports_once_and_again_when_it_is_gone_or_changed() {
        let sys = Double::new();
        sys.put("/usr/bin/ctr", "");
        sys.put("/data/ksos/x", "");
        sys.put("/run/ksos/x", "");
        sys.put(layout::RUNTIME_CONFIG, serde_json::to_vec(&with_image()).expect("JSON"));
        node(&sys).handover.write(&sys).expect("written");
        let listed = |text: &str| {
            sys.calls.borrow_mut().clear();
            let runs = [(Exit::Code(0), text.to_owned()), (Exit::Code(0), String::new())];
            sys.runs.borrow_mut().insert("/usr/bin/ctr".to_owned(), runs.into());
            assert_eq!(import(&sys, &mut Vec::new()), 0);
            sys.calls_of("run /usr/bin/ctr -n k8s.io images import /usr/share/hello.tar").len()
        };
        assert_eq!(listed(""), 1, "first boot");
        assert_eq!(listed("docker.io/library/hello:1\n"), 0, "second boot");
        assert_eq!(listed("docker.io/library/other:1\n"), 1, "it was removed");
        let mut updated = node(&sys).handover;
        updated.root_sha256 = ksos_formats::Digest([8; 32]);
        updated.write(&sys).expect("written");
        assert_eq!(listed("docker.io/library/hello:1\n"), 1, "another root image");
    }

    #[test]
    fn a_failure_is_named() {
        let sys = Double::new();
        sys.put(layout::RUNTIME_CONFIG, serde_json::to_vec(&with_image()).expect("JSON"));
        sys.put("/run/ksos/x", "");
        node(&sys).handover.write(&sys).expect("written");
        let mut out = Vec::new();
        assert_eq!(import(&sys, &mut out), 1);
        assert_eq!(String::from_utf8(out).expect("text"), "ctr is not in the image\n");
    }
}
