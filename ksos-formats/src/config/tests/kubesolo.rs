//! KubeSolo's flags: types, the file, arguments, environment.

use super::*;

fn flags(section: &str) -> KubeSolo {
    good(&format!("kubesolo:\n{section}")).kubesolo
}

const ALL: &str = "  path: /var/lib/kubesolo
  apiserver-extra-sans: [edge.example, '*.edge.example', 10.0.0.4, '2001:db8::4']
  startup-timeout: 900
  node-ip: 10.0.0.4
  mtu: 1450
  disable-ipv6: true
  load-balancer: true
  load-balancer-ip: 10.0.0.5
  local-storage: false
  local-storage-shared-path: /mnt/shared
  db-wal-repair: true
  debug: false
  pprof-server: false
  metrics-server: true
  metrics-bind-address: 0.0.0.0:9105
  portainer-edge-id: 7e10
  portainer-edge-key: aHR0cHM6Ly9wb3J0YWluZXI=
  portainer-edge-async: true
  portainer-edge-image: portainer/agent:lts
  container-mode: false
  container-runtime-endpoint: unix:///run/containerd/containerd.sock
  cpu-manager-policy: static
  cpu-manager-policy-options: {full-pcpus-only: 'true'}
  reserved-cpus: 0-1,3
  system-reserved: {memory: 200Mi, cpu: 100m}
  d2k: true
  d2k-namespace: docker
";

/// In the form of KubeSolo's own configuration file, which passes over keys that it does not know.
const FILE: &str = r#"apiVersion: kubesolo.io/v1alpha1
kind: Config
path: "/var/lib/kubesolo"
kubernetes:
  apiServer:
    extraSANs: ["edge.example","*.edge.example","10.0.0.4","2001:db8::4"]
    startupTimeoutSeconds: 900
  kubelet:
    cpuManager:
      policy: "static"
      policyOptions: {"full-pcpus-only":"true"}
      reservedCPUs: "0-1,3"
    systemReserved: {"cpu":"100m","memory":"200Mi"}
network:
  nodeIP: "10.0.0.4"
  mtu: 1450
  disableIPv6: true
  loadBalancer:
    enabled: true
    ip: "10.0.0.5"
runtime:
  endpoint: "unix:///run/containerd/containerd.sock"
  containerMode: false
storage:
  localPath:
    enabled: false
    sharedPath: "/mnt/shared"
  dbWALRepair: true
logging:
  debug: false
  pprof: false
metrics:
  enabled: true
  bindAddress: "0.0.0.0:9105"
portainer:
  edgeID: "7e10"
  edgeKey: "aHR0cHM6Ly9wb3J0YWluZXI="
  async: true
  image: "portainer/agent:lts"
d2k:
  enabled: true
  namespace: "docker"
"#;

#[test]
fn every_flag_reaches_the_file() {
    assert_eq!(kubesolo_file(&flags(ALL)), FILE);
    assert_eq!(kubesolo_file(&KubeSolo::default()), "apiVersion: kubesolo.io/v1alpha1\nkind: Config\n");
    assert_eq!(
        kubesolo_file(&flags("  db-wal-repair: true\n")),
        "apiVersion: kubesolo.io/v1alpha1\nkind: Config\nstorage:\n  dbWALRepair: true\n"
    );
}

/// The file is read back by the YAML reader with the types that KubeSolo expects: numbers plain, texts quoted.
#[test]
fn the_file_is_yaml() {
    use super::super::yaml::{NodeValue, parse};
    fn scalars(node: &super::super::yaml::Node, path: &str, found: &mut Vec<(String, String, bool)>) {
        match &node.value {
            NodeValue::Scalar { text, plain } => found.push((path.to_owned(), text.clone(), *plain)),
            NodeValue::Sequence(items) => items.iter().for_each(|item| scalars(item, path, found)),
            NodeValue::Mapping(entries) => {
                entries.iter().for_each(|entry| scalars(&entry.value, &format!("{path}.{}", entry.key), found));
            }
        }
    }
    let mut found = Vec::new();
    scalars(&parse(FILE).unwrap().unwrap(), "", &mut found);
    let has = |path: &str, text: &str, plain| found.contains(&(path.to_owned(), text.to_owned(), plain));
    assert!(has(".portainer.edgeID", "7e10", false));
    assert!(has(".network.mtu", "1450", true));
    assert!(has(".kubernetes.kubelet.systemReserved.cpu", "100m", false));
    assert!(has(".storage.localPath.enabled", "false", true));
}

#[test]
fn the_table_of_the_file_has_every_flag() {
    for key in super::super::kubesolo::KUBESOLO.keys {
        let value = serde_json::Value::from("x");
        let one = KubeSolo { flags: [(key.name.to_owned(), value)].into_iter().collect() };
        assert!(kubesolo_file(&one).contains("\"x\""), "{} is not in the file", key.name);
        assert_eq!(kubesolo_environment(&one).len(), 1);
    }
}

#[test]
fn arguments_have_no_booleans_with_values_and_no_secrets() {
    let arguments = kubesolo_arguments(&flags(ALL));
    for expected in [
        "--no-debug",
        "--disable-ipv6",
        "--mtu=1450",
        "--apiserver-extra-sans=edge.example,*.edge.example,10.0.0.4,2001:db8::4",
        "--system-reserved=cpu=100m,memory=200Mi",
        "--portainer-edge-id=7e10",
    ] {
        assert!(arguments.iter().any(|argument| argument == expected), "{expected}: {arguments:?}");
    }
    assert!(
        !arguments.iter().any(
            |argument| argument.ends_with("=false") || argument.ends_with("=true") && !argument.contains("options")
        )
    );
    assert!(!arguments.iter().any(|argument| argument.contains("edge-key")));
}

#[test]
fn the_environment_has_all_flags() {
    let environment = kubesolo_environment(&flags(ALL));
    assert!(environment.contains(&("KUBESOLO_PORTAINER_EDGE_KEY".to_owned(), "aHR0cHM6Ly9wb3J0YWluZXI=".to_owned())));
    assert!(environment.contains(&("KUBESOLO_LOCAL_STORAGE".to_owned(), "false".to_owned())));
    assert!(environment.contains(&("KUBESOLO_D2K".to_owned(), "true".to_owned())));
}

#[test]
fn values_of_flags_are_checked() {
    for (flag, expected) in [
        ("path: var/lib", "an absolute path"),
        ("apiserver-extra-sans: https://edge.example:6443", "without scheme and port"),
        ("apiserver-extra-sans: [edge.example, 10.0.0.300]", "kubesolo.apiserver-extra-sans[1]"),
        ("startup-timeout: 10m", "a number from 1 to 86400"),
        ("node-ip: edge.example", "an IP address"),
        ("mtu: -1", "a number from 0 to 65535"),
        ("debug: 1", "true or false"),
        ("metrics-bind-address: 9105", "an address and a port"),
        ("portainer-edge-key: 'a b'", "kubesolo.portainer-edge-key: expected printable ASCII without blanks"),
        ("portainer-edge-image: ':latest'", "a reference to a container image"),
        ("container-runtime-endpoint: tcp://10.0.0.1:1", "an absolute path, or unix:// and one"),
        ("cpu-manager-policy: statik", "did you mean static?"),
        ("reserved-cpus: 3-1", "numbers of processors"),
        ("system-reserved: {disk: 1Gi}", "cpu, memory, ephemeral-storage or pid"),
        ("system-reserved: {memory: lots}", "a quantity"),
        ("system-reserved: cpu=100m", "expected a mapping"),
        ("d2k-namespace: Docker", "at most 63 lower-case letters"),
        ("edge-id: a", "unknown key"),
    ] {
        let found = errors(&format!("kubesolo:\n  {flag}\n"));
        assert!(found[0].contains(expected), "{flag}: {found:?}");
    }
    let parsed = parse_document("kubesolo: {full: true}\n").unwrap();
    assert_eq!(parsed.warnings.len(), 1);
}
