//! From what was found to what is to be done: parse, merge, plan. Pure, but for reading the image's default.

use ksos_formats::config::{
    DOCUMENT_LIMIT, Document, MetaData, NodeConfig, Resolved, parse_document, parse_meta_data, parse_network_config,
    resolve,
};
use ksos_formats::runtime::RuntimeConfig;

use super::apply::Notes;
use super::plan::Plan;
use super::source::{Found, Source, named, text_of};
use super::{Context, Secrets};

/// The image's default.
#[derive(Debug, Default)]
pub(super) struct ImageDefault {
    /// Its path; empty if the image has none.
    pub(super) place: String,
    /// Its text; empty if it has none or cannot be read.
    pub(super) text: String,
    /// What it says, if it is good.
    pub(super) document: Option<Document>,
}

impl ImageDefault {
    /// Reads and parses it. What is wrong with it is an error, and it then counts as not there.
    pub(super) fn read(context: &Context<'_>, secrets: &mut Secrets, notes: &mut Notes) -> Self {
        let Some(place) = context.image.default_config.clone() else { return ImageDefault::default() };
        let bytes = context.sys.read(&place, DOCUMENT_LIMIT as u64).map_err(|error| vec![error.to_string()]);
        let text = bytes.and_then(|bytes| text_of(&place, &bytes)).unwrap_or_else(|errors| {
            notes.errors.extend(errors);
            String::new()
        });
        secrets.add_document(&text);
        match parse_document(&text) {
            Ok(parsed) => {
                notes.warnings.extend(named(&place, &parsed.warnings));
                ImageDefault { place, text, document: Some(parsed.document) }
            }
            Err(diagnostics) => {
                notes.errors.extend(named(&place, &diagnostics));
                ImageDefault { place, text, document: None }
            }
        }
    }
}

/// A configuration that is good.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The effective configuration.
    pub(super) config: NodeConfig,
    /// What is to be done.
    pub(super) plan: Plan,
    /// The instance that it is for, if its source says so.
    pub(super) instance_id: Option<String>,
    /// What has no effect, or should be known.
    pub(super) warnings: Vec<String>,
}

impl Prepared {
    /// Returns a configuration of nothing but the kernel command line.
    pub(super) fn without_documents(cmdline: &Document) -> Self {
        let Resolved { config, warnings } = resolve(None, None, None, cmdline);
        // A kernel parameter names neither files nor certificates, so there is nothing that a plan could refuse.
        let plan = Plan::of(&config, &[]).unwrap_or_default();
        Prepared { config, plan, instance_id: None, warnings }
    }
}

/// Parses, merges and plans.
///
/// # Errors
/// Everything that is wrong; nothing of the configuration is to be used then.
pub(super) fn prepare(
    image: &RuntimeConfig,
    default: &ImageDefault,
    found: &Found,
    cmdline: &Document,
    secrets: &mut Secrets,
) -> Result<Prepared, Vec<String>> {
    secrets.add_document(&found.user_data);
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let mut note = |name: &str, diagnostics: &[_]| errors.extend(named(&name_of(found, name), diagnostics));
    let mut document = parse_document(&found.user_data).map_or_else(
        |diagnostics| {
            note("user-data", &diagnostics);
            Document::default()
        },
        |parsed| {
            warnings.extend(named(&name_of(found, "user-data"), &parsed.warnings));
            parsed.document
        },
    );
    let meta_data = parse_meta_data(found.meta_data.as_deref().unwrap_or("")).unwrap_or_else(|diagnostics| {
        note("meta-data", &diagnostics);
        MetaData::default()
    });
    let network = found.network_config.as_deref().map(parse_network_config).and_then(|result| match result {
        Ok(parsed) => {
            warnings.extend(named(&name_of(found, "network-config"), &parsed.warnings));
            Some(parsed.network)
        }
        Err(diagnostics) => {
            note("network-config", &diagnostics);
            None
        }
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    document.hostname = document.hostname.or(meta_data.local_hostname);
    if !found.public_keys.is_empty() {
        document.ssh_authorized_keys.get_or_insert_default().extend(found.public_keys.iter().cloned());
    }
    let Resolved { config, warnings: contradictions } =
        resolve(default.document.as_ref(), Some(&document), network.as_ref(), cmdline);
    warnings.extend(contradictions);
    let plan = Plan::of(&config, &image.data.persist).map_err(|errors| {
        errors.iter().map(|error| format!("{}: {error}", name_of(found, "user-data"))).collect::<Vec<_>>()
    })?;
    Ok(Prepared { config, plan, instance_id: meta_data.instance_id, warnings })
}

/// Returns what the errors of a part begin with.
fn name_of(found: &Found, part: &str) -> String {
    match found.source {
        Source::Data | Source::Default => found.place.clone(),
        Source::Nocloud => format!("{}:{part}", found.place),
        Source::Ec2 => part.to_owned(),
    }
}
