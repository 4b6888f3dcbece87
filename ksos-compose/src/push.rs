//! The command `push`: from arguments to operations, and from their results to text or JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use ksos_compose::cli::{PlainHttp, PushArguments};
use ksos_compose::effects::progress;
use ksos_compose::ops::publish::{PublishError, Repository};
use ksos_compose::ops::push::{self, Pushed, Request};
use ksos_compose::ops::verify_artifact::downloader;
use ksos_compose::ops::{OpError, Reporter, Session};
use ksos_compose::registry::signatures::CosignSigner;
use ksos_compose::registry::{Location, Registry, RegistryError};
use ksos_compose::source::oci::{Registries, is_loopback};
use serde_json::{Value, json};

use crate::releases;

/// `push`
pub fn push(session: &Session, arguments: &PushArguments) -> Result<ExitCode, OpError> {
    let (mut places, mut paths) = (Vec::new(), Vec::new());
    for argument in &arguments.arguments {
        match Location::parse(argument) {
            Some(location) => places.push((location?, argument)),
            None => paths.push(session.environment.directory.join(argument)),
        }
    }
    let [(location, text)] = places.as_slice() else {
        return Err(PublishError::Usage("one oci://HOST/REPOSITORY says where to push").into());
    };
    let location = secured(location.clone(), text, arguments.plain_http)?;
    let (released, images): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| push::is_release(path));
    check(&location, text, (&images, &released), arguments)?;
    let open = |source| CosignSigner::open(source, releases::surroundings(&session.environment));
    let cosign: Vec<CosignSigner> =
        arguments.cosign_keys.iter().map(open).collect::<Result<_, _>>().map_err(RegistryError::from)?;
    let net = downloader(session);
    let registries = Registries::new(|name| session.environment.variable(name).map(str::to_owned));
    let mounts = mounts(&location, &arguments.mounts)?;
    let mut pushed = None;
    if !images.is_empty() {
        let annotations: BTreeMap<String, String> = arguments.annotations.iter().cloned().collect();
        let request = Request {
            place: &location.place,
            mounts: &mounts,
            inputs: &images,
            tag: location.tag.as_deref(),
            replace: arguments.options.replace,
            compress: !arguments.no_compress,
            annotations: &annotations,
            attachments: &arguments.attachments,
            referrers: !arguments.no_referrers,
            cosign: &cosign,
        };
        pushed = Some(push::push(session, (&net, &registries), &request)?);
    }
    // Without images, a channel may be changed alone.
    let mut published = None;
    if !released.is_empty() || images.is_empty() {
        let registry = Registry::with_mounts(&net, &registries, &location.place, mounts);
        let repository = Repository { registry: &registry, cosign: &cosign, referrers: !arguments.no_referrers };
        published = Some(releases::publish_with(session, &repository, &released, &arguments.options)?);
    }
    if arguments.options.json {
        let mut value = published.as_ref().map_or_else(|| json!({}), releases::json_of);
        value["artifacts"] = pushed.iter().map(json_of).collect();
        releases::print(&value);
        return Ok(ExitCode::SUCCESS);
    }
    let reporter = session.reporter.as_ref();
    pushed.iter().for_each(|pushed| show(reporter, pushed));
    published.iter().for_each(|published| releases::show(reporter, published));
    Ok(ExitCode::SUCCESS)
}

/// Decides whether the registry is spoken to by http.
fn secured(mut location: Location, text: &str, plain: Option<PlainHttp>) -> Result<Location, RegistryError> {
    let is_here = is_loopback(&location.place.registry);
    let asks = text.starts_with("oci+http:");
    let wrong = |reason: &str| RegistryError::Place { text: text.to_owned(), reason: reason.to_owned() };
    match plain {
        None if !asks => {}
        None | Some(PlainHttp::Loopback) if !is_here => {
            return Err(wrong(
                "the registry is not on this machine, and http shows everybody on the way the password and \
                              what is pushed; --plain-http=force does it",
            ));
        }
        None | Some(PlainHttp::Loopback | PlainHttp::Force) => location.place.plain = true,
        Some(PlainHttp::Never) if asks => return Err(wrong("it asks for http")),
        Some(PlainHttp::Never) => location.place.plain = false,
    }
    Ok(location)
}

/// Refuses what makes no sense together.
fn check(
    location: &Location,
    text: &str,
    (images, released): (&[PathBuf], &[PathBuf]),
    arguments: &PushArguments,
) -> Result<(), OpError> {
    let wrong = |reason: &str| RegistryError::Place { text: text.to_owned(), reason: reason.to_owned() };
    if location.digest.is_some() {
        return Err(wrong("digests are what they are; a tag says where").into());
    }
    if images.is_empty() && location.tag.is_some() {
        return Err(wrong("tags are given by what is pushed").into());
    }
    if !released.is_empty() && arguments.options.channel.is_none() {
        return Err(PublishError::Usage("--channel says what leads to the releases").into());
    }
    if images.is_empty() && !arguments.attachments.is_empty() {
        return Err(PublishError::Usage("--attach is for images").into());
    }
    Ok(())
}

/// Reads the repositories of `--mount-from`: with the registry or without.
fn mounts(location: &Location, texts: &[String]) -> Result<Vec<String>, RegistryError> {
    let registry = &location.place.registry;
    let read = |text: &String| {
        let wrong = |reason: &str| RegistryError::Place { text: text.clone(), reason: reason.to_owned() };
        let bare = text.trim_start_matches("oci://").trim_start_matches(&format!("{registry}/")).to_owned();
        match Location::parse(&format!("oci://{registry}/{bare}")) {
            Some(Ok(Location { place, tag: None, digest: None })) if place.registry == *registry => {
                Ok(place.repository)
            }
            Some(Err(error)) => Err(error),
            _ => Err(wrong("--mount-from takes a repository of the same registry")),
        }
    };
    texts.iter().map(read).collect()
}

fn show(reporter: &dyn Reporter, pushed: &Pushed) {
    let Pushed { place, digest, unchanged, brought, documents: _, attached } = pushed;
    if *unchanged {
        reporter.note(&format!("{place}: nothing changed"));
    } else {
        let mut text = format!("{place}: {} in {} blobs", progress::size(brought.sent), brought.blobs);
        for (count, what) in [(brought.present, "were there"), (brought.mounted, "were mounted")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        reporter.note(&text);
    }
    for file in attached {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        reporter.note(&format!("  {name} ({}) refers to {}", file.artifact_type, file.subject));
    }
    releases::line(&format!("{place}@sha256:{digest}"));
}

fn json_of(pushed: &Pushed) -> Value {
    let Pushed { place, digest, unchanged, brought, documents, attached } = pushed;
    let attached: Vec<Value> = attached
        .iter()
        .map(|file| {
            json!({
                "path": file.path, "artifactType": file.artifact_type, "subject": file.subject,
                "digest": format!("sha256:{}", file.digest),
            })
        })
        .collect();
    json!({
        "place": place, "digest": format!("sha256:{digest}"), "changed": !unchanged, "bytes": brought.sent,
        "blobs": { "sent": brought.blobs, "mounted": brought.mounted, "present": brought.present },
        "manifests": documents, "referrers": attached,
    })
}
