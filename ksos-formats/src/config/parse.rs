//! From bytes to a [`Document`].

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::Value as Json;

use super::diagnostic::{Diagnostic, Place};
use super::document::{
    CaCertificatesDocument, Document, InstallDocument, KubeconfigDocument, MetricsDocument, NetworkDocument,
    NtpDocument,
};
use super::forms::parse_owner;
use super::keys::Kind;
use super::read::{Fields, Item, Reader, Value};
use super::types::{Action, KubeSolo, WriteFile};
use super::yaml::{self, NodeValue};
use super::{DOCUMENT_LIMIT, MetaData, Parsed, ParsedNetwork, network, tables, updates};

/// The start of the text, where faults of the whole are shown.
const START: Place = Place { line: 1, column: 1, length: None };

/// Returns the text of a document: at most [`DOCUMENT_LIMIT`] bytes of UTF-8, not compressed.
///
/// # Errors
/// What the bytes are instead.
pub fn document_text(bytes: &[u8]) -> Result<&str, Vec<Diagnostic>> {
    let what = match bytes {
        _ if bytes.len() > DOCUMENT_LIMIT => format!("larger than {DOCUMENT_LIMIT} bytes"),
        [0x1f, 0x8b, ..] => "compressed with gzip, which is not supported".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed with zstd, which is not supported".to_owned(),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "in UTF-16, not in UTF-8".to_owned(),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => "not a text: it has zero bytes".to_owned(),
            Ok(text) => return Ok(text),
            Err(error) => return Err(vec![not_utf8(bytes, error.valid_up_to())]),
        },
    };
    Err(vec![Diagnostic::new(START, format!("the document is {what}"))])
}

fn not_utf8(bytes: &[u8], valid: usize) -> Diagnostic {
    let before = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Diagnostic::new(Place { line, column, length: None }, "the document is not in UTF-8")
}

/// Says what a text is when it is user-data of another kind
/// (<https://docs.cloud-init.io/en/latest/explanation/format/index.html>).
fn other_kind(text: &str) -> Option<&'static str> {
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let is = |prefix: &str| first.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    [
        ("#!", "a script"),
        ("#include", "a list of addresses to include"),
        ("#cloud-boothook", "a boothook"),
        ("#part-handler", "a part handler"),
        ("#cloud-config-archive", "an archive of documents"),
        ("#cloud-config-jsonp", "a JSON patch"),
        ("#upstart-job", "an Upstart job"),
        ("## template:", "a template"),
        ("Content-Type:", "a MIME document of several parts"),
        ("MIME-Version:", "a MIME document of several parts"),
        ("-----BEGIN", "in PEM or PGP armour"),
        ("<", "XML or HTML"),
        ("%!PS", "PostScript"),
    ]
    .iter()
    .find(|(prefix, _)| is(prefix))
    .map(|(_, what)| *what)
}

/// Parses a text into a tree; an empty one into `None`.
fn tree(text: &str) -> Result<Option<yaml::Node>, Vec<Diagnostic>> {
    document_text(text.as_bytes())?;
    if let Some(what) = other_kind(text) {
        let fault =
            Diagnostic::new(START, format!("the document is {what}; only YAML with the documented keys is taken"));
        return Err(vec![fault]);
    }
    yaml::parse(text)
}

/// Parses a document: `cloud-init.yaml`, or user-data. The line `#cloud-config` may be there or not.
///
/// # Errors
/// Everything that is wrong, in the order of the places. Nothing of a document with errors is to be used.
pub fn parse_document(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let Some(root) = tree(text)? else { return Ok(Parsed::default()) };
    let mut reader = Reader::default();
    let fields = reader.table(&root, &tables::DOCUMENT, "");
    let document = document(&mut reader, &fields);
    Ok(Parsed { warnings: reader.finish()?, document })
}

/// Parses NoCloud's `network-config`, version 2, with or without the key `network` around it.
///
/// # Errors
/// Everything that is wrong, in the order of the places.
pub fn parse_network_config(text: &str) -> Result<ParsedNetwork, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    let Some(root) = tree(text)? else {
        return Err(vec![Diagnostic::new(START, "the network configuration is empty")]);
    };
    let inner = match root.entries() {
        Some([entry]) if entry.key == "network" => &entry.value,
        _ => &root,
    };
    let network = match reader.value(inner, &Kind::Network, "network", inner.place) {
        Some(item) => network::document(&mut reader, &item),
        None => NetworkDocument::Simple(Default::default()),
    };
    if reader.errors.is_empty() && matches!(network, NetworkDocument::Simple(_)) {
        reader.error(inner.place, "network: the key version is missing").hint = Some("version: 2".to_owned());
    }
    Ok(ParsedNetwork { warnings: reader.finish()?, network })
}

/// Parses NoCloud's `meta-data`, YAML or JSON (which is YAML). Unknown keys are passed over, as in NoCloud.
///
/// # Errors
/// Everything that is wrong, in the order of the places.
pub fn parse_meta_data(text: &str) -> Result<MetaData, Vec<Diagnostic>> {
    let Some(root) = tree(text)? else { return Ok(MetaData::default()) };
    let mut reader = Reader::default();
    let Some(entries) = root.entries() else {
        return Err(vec![Diagnostic::new(root.place, "the meta-data: expected a mapping")]);
    };
    let mut text_of = |name: &str| {
        let entry = entries.iter().find(|entry| entry.key == name || entry.key.replace('_', "-") == name)?;
        match &entry.value.value {
            NodeValue::Scalar { text, .. } if !entry.value.is_null() => {
                Some((text.trim().to_owned(), entry.value.place))
            }
            NodeValue::Scalar { .. } => None,
            _ => {
                reader.error(entry.value.place, format!("{name}: expected a text"));
                None
            }
        }
    };
    let instance_id = text_of("instance-id").map(|(text, _)| text);
    let local_hostname = text_of("local-hostname").or_else(|| text_of("hostname"));
    let local_hostname = local_hostname.and_then(|(name, place)| {
        // What a cloud calls the machine may be a full name, in any case.
        let label = name.split('.').next().unwrap_or_default().to_lowercase();
        let fits = (super::forms::HOSTNAME.check)(&label);
        if !fits && !label.is_empty() {
            let expected = super::forms::HOSTNAME.expected;
            reader.error(place, format!("local-hostname: expected {expected}, found {}", yaml::shown(&name)));
        }
        fits.then_some(label)
    });
    reader.finish()?;
    Ok(MetaData { instance_id: instance_id.filter(|id| !id.is_empty()), local_hostname })
}

/// Makes the document of what was read, and checks what belongs together.
fn document(reader: &mut Reader, fields: &Fields) -> Document {
    let [ntp, ca_certs, metrics] = ["ntp", "ca_certs", "metrics"].map(|name| fields.section(name));
    Document {
        hostname: hostname(reader, fields),
        network: fields.get("network").map(|item| network::document(reader, item)),
        ntp: NtpDocument { enabled: ntp.boolean("enabled"), servers: servers(&ntp) },
        kubesolo: kubesolo(&fields.section("kubesolo")),
        ssh_authorized_keys: fields
            .texts("ssh_authorized_keys")
            .map(|keys| keys.iter().map(|key| key.trim().to_owned()).collect()),
        write_files: fields.get("write_files").map(|item| write_files(reader, item)),
        ca_certs: CaCertificatesDocument {
            trusted: ca_certs.texts("trusted"),
            remove_defaults: ca_certs.boolean("remove_defaults"),
        },
        metrics: MetricsDocument { enabled: metrics.boolean("enabled"), listen: metrics.text("listen") },
        kubeconfig: kubeconfig(&fields.section("kubeconfig")),
        updates: updates::updates(reader, &fields.section("updates")),
        install: install(&fields.section("install")),
    }
}

fn install(fields: &Fields) -> Option<InstallDocument> {
    Some(InstallDocument { disk: fields.text("disk")?, wipe: fields.boolean("wipe"), then: fields.text("then") })
}

fn hostname(reader: &mut Reader, fields: &Fields) -> Option<String> {
    if let Some(hostname) = fields.text("hostname") {
        return Some(hostname);
    }
    let item = fields.get("fqdn").filter(|_| !fields.keys.contains_key("hostname"))?;
    let label = item.text().split('.').next().unwrap_or_default().to_owned();
    if !(super::forms::HOSTNAME.check)(&label) {
        let expected = super::forms::HOSTNAME.expected;
        reader.error(item.place, format!("fqdn: its first part is the host name; expected {expected}"));
    }
    Some(label)
}

fn servers(ntp: &Fields) -> Option<Vec<String>> {
    let (servers, pools) = (ntp.texts("servers"), ntp.texts("pools"));
    if servers.is_none() && pools.is_none() {
        return None;
    }
    Some(servers.into_iter().chain(pools).flatten().collect())
}

/// Takes over flags as they stand.
pub(super) fn kubesolo(fields: &Fields) -> KubeSolo {
    let flags = fields.entries.iter().map(|(name, item)| ((*name).to_owned(), json(item)));
    KubeSolo { flags: flags.collect() }
}

fn json(item: &Item) -> Json {
    match &item.value {
        Value::Boolean(value) => Json::from(*value),
        Value::Integer(value) => Json::from(*value),
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Fields(_) => Json::Null,
        Value::Map(entries) => {
            // Sorted, whatever order the map of serde_json keeps.
            let sorted: std::collections::BTreeMap<&String, Json> =
                entries.iter().map(|(name, item)| (name, json(item))).collect();
            Json::Object(sorted.into_iter().map(|(name, value)| (name.clone(), value)).collect())
        }
    }
}

fn kubeconfig(fields: &Fields) -> KubeconfigDocument {
    KubeconfigDocument {
        enabled: fields.boolean("enabled"),
        listen: fields.text("listen"),
        duration_s: fields.integer("duration"),
        fetches: fields.integer("fetches"),
        token: fields.text("token"),
    }
}

fn write_files(reader: &mut Reader, list: &Item) -> Vec<WriteFile> {
    let files = list.items().iter().enumerate();
    files.filter_map(|(index, item)| write_file(reader, &item.fields(), index)).collect()
}

fn write_file(reader: &mut Reader, fields: &Fields, index: usize) -> Option<WriteFile> {
    let content = fields.text("content").unwrap_or_default();
    let encoding = fields.text("encoding").unwrap_or_default();
    let content = match encoding.as_str() {
        "" | "text/plain" => content.into_bytes(),
        "b64" | "base64" => {
            let decoded = base64_bytes(&content);
            if decoded.is_none() {
                reader.error(fields.key("content"), format!("write_files[{index}].content is not base64"));
            }
            decoded?
        }
        _ => {
            let message = format!("write_files[{index}].encoding: compressed content is not supported");
            reader.error(fields.key("encoding"), message).hint = Some("encoding: b64 takes any bytes".to_owned());
            return None;
        }
    };
    Some(WriteFile {
        path: fields.text("path")?,
        content: STANDARD.encode(content),
        mode: fields.integer("permissions").unwrap_or(0o644),
        owner: fields.get("owner").and_then(|item| parse_owner(item.text())).unwrap_or((0, 0)),
        action: if fields.boolean("append") == Some(true) { Action::Append } else { Action::Replace },
    })
}

/// Decodes base64 as people write it: with line ends, with padding or without.
pub(super) fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = text.split_ascii_whitespace().collect();
    GeneralPurpose::new(&ALPHABET, LENIENT).decode(text).ok()
}
