//! Kernel parameters that configure the node. Anything in `/proc/cmdline` can be read by every process.

use std::collections::BTreeMap;

use super::diagnostic::nearest;
use super::document::{Document, Mode, NetworkDocument, SimpleNetwork};
use super::forms::{CIDR, HOSTNAME};
use super::keys::{Key, Kind, key};
use super::kubesolo::KUBESOLO;
use super::network::{SIMPLE, simple_values};
use super::parse::kubesolo;
use super::read::{Fields, Item, Source, Value, scalar};

/// Kernel parameter with the host name.
pub const PARAM_HOSTNAME: &str = "ksos.hostname";
/// Kernel parameter with an address and its prefix length, or `dhcp`, or `off`.
pub const PARAM_ADDRESS: &str = "ksos.address";
/// Kernel parameter with the gateway of the default route.
pub const PARAM_GATEWAY: &str = "ksos.gateway";
/// Kernel parameter with name servers, commas between.
pub const PARAM_DNS: &str = "ksos.dns";
/// Kernel parameter with the name of the interface.
pub const PARAM_INTERFACE: &str = "ksos.interface";
/// Kernel parameter with the maximum transmission unit in bytes.
pub const PARAM_MTU: &str = "ksos.mtu";
/// Kernel parameter with the VLAN identifier.
pub const PARAM_VLAN: &str = "ksos.vlan";
/// What the parameters with KubeSolo's flags begin with.
pub const PARAM_KUBESOLO: &str = "kubesolo.";

/// Kernel parameters whose values must not be logged or copied.
pub fn is_secret_parameter(name: &str) -> bool {
    name.strip_prefix(PARAM_KUBESOLO).and_then(flag).is_some_and(|key| matches!(key.kind, Kind::Secret(_)))
}

/// Parameters of the network, with the key of the simple form that they stand for.
const NETWORK: &[(&str, &str)] = &[
    (PARAM_ADDRESS, "address"),
    (PARAM_GATEWAY, "gateway"),
    (PARAM_DNS, "dns"),
    (PARAM_INTERFACE, "interface"),
    (PARAM_MTU, "mtu"),
    (PARAM_VLAN, "vlan"),
];

static ADDRESS: Key = key("address", Kind::Text(CIDR), "");

/// Finds the flag that a parameter stands for: `_` is `-`, as the kernel has it, and the Edge parameters have a short
/// name beside their own.
fn flag(name: &str) -> Option<&'static Key> {
    let name = name.replace('_', "-");
    KUBESOLO.find(match name.as_str() {
        "edge-id" => "portainer-edge-id",
        "edge-key" => "portainer-edge-key",
        "edge-async" => "portainer-edge-async",
        name => name,
    })
}

/// Reads the kernel parameters that configure the node, the last of each name; others are passed over. A parameter
/// without value is `true` where that is expected. Warnings name the parameters that have no effect, and never the
/// value of a secret one.
pub fn from_cmdline<'a>(parameters: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> (Document, Vec<String>) {
    let parameters: BTreeMap<&str, Option<&str>> = parameters.collect();
    let mut warnings = Vec::new();
    let mut document = Document::default();
    let mut network = Fields::default();
    let mut flags = Fields::default();
    for (name, value) in parameters {
        let read = match name {
            PARAM_HOSTNAME => {
                item(&Kind::Text(HOSTNAME), value).map(|item| document.hostname = Some(item.text().to_owned()))
            }
            name if NETWORK.iter().any(|(parameter, _)| *parameter == name) => {
                network_parameter(&mut network, name, value)
            }
            name => match name.strip_prefix(PARAM_KUBESOLO) {
                Some(rest) => flag_parameter(&mut flags, rest, value),
                None => continue,
            },
        };
        warnings.extend(read.err().map(|fault| format!("kernel parameter {name}: {fault}; ignored")));
    }
    document.kubesolo = kubesolo(&flags);
    if !network.entries.is_empty() {
        document.network = Some(NetworkDocument::Simple(simple(&network)));
    }
    (document, warnings)
}

fn simple(fields: &Fields) -> SimpleNetwork {
    let network = simple_values(fields);
    // An address alone says how it is had.
    let mode = network.mode.or(network.address.is_some().then_some(Mode::Static));
    SimpleNetwork { mode, ..network }
}

fn network_parameter(fields: &mut Fields, name: &str, value: Option<&str>) -> Result<(), String> {
    let known =
        |name: &str| NETWORK.iter().find(|(parameter, _)| *parameter == name).and_then(|(_, key)| SIMPLE.find(key));
    if name == PARAM_ADDRESS && matches!(value, Some("dhcp" | "off")) {
        let mode = Value::Text(value.unwrap_or_default().to_owned());
        fields.entries.insert("mode", Item { value: mode, place: Default::default() });
        return Ok(());
    }
    let key = if name == PARAM_ADDRESS { Some(&ADDRESS) } else { known(name) };
    let Some(key) = key else { return Ok(()) };
    fields.entries.insert(key.name, item(&key.kind, value)?);
    Ok(())
}

fn flag_parameter(fields: &mut Fields, name: &str, value: Option<&str>) -> Result<(), String> {
    let Some(key) = flag(name) else {
        let near = nearest(name, KUBESOLO.keys.iter().map(|key| key.name));
        let hint = near.map(|near| format!(", did you mean {PARAM_KUBESOLO}{near}?")).unwrap_or_default();
        return Err(format!("KubeSolo has no such flag{hint}"));
    };
    fields.entries.insert(key.name, item(&key.kind, value)?);
    Ok(())
}

fn item(kind: &Kind, value: Option<&str>) -> Result<Item, String> {
    let value = match (kind, value) {
        (Kind::Boolean, None) => Value::Boolean(true),
        (_, None | Some("")) => return Err("it has no value".to_owned()),
        (_, Some(value)) => {
            scalar(kind, value, Source::Parameter).map_err(|wrong| format!("expected {}", wrong.expected))?
        }
    };
    Ok(Item { value, place: Default::default() })
}
