//! The commands about keys and releases: from arguments to an operation, and from its result to text or JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ksos_compose::cli::{KeysCommand, PublishOptions, SigningKeys, VerifyArguments};
use ksos_compose::effects::{fs, progress};
use ksos_compose::manifest::keys::{KEY_FILE_LIMIT, cosign_key};
use ksos_compose::ops::blob_key::BlobKey;
use ksos_compose::ops::keys::{Rotation, WrittenSet};
use ksos_compose::ops::publish::channel::Change;
use ksos_compose::ops::publish::{Destination, PublishError, Published, Request, Tree, publish as publish_to};
use ksos_compose::ops::sign::Outcome;
use ksos_compose::ops::trust::Trust;
use ksos_compose::ops::verify_artifact::{self, Findings, Trusted};
use ksos_compose::ops::{self, Environment, OpError, Reporter, Session};
use ksos_compose::sign::{self, OpenedKey, Surroundings};
use ksos_formats::update::cosign::Key;
use serde_json::{Value, json};

use crate::render::out;

/// Prints a line on standard output.
pub fn line(text: &str) {
    out(&format!("{text}\n"));
}

/// Prints JSON on standard output.
pub fn print(value: &Value) {
    line(&format!("{value:#}"));
}

/// Returns where keys are looked for.
pub fn surroundings(environment: &Environment) -> Surroundings<'_> {
    Surroundings { variables: &environment.variables, directory: &environment.directory }
}

/// Opens private keys, and tells what is to be known of them.
pub fn open(environment: &Environment, reporter: &dyn Reporter, keys: &SigningKeys) -> Result<Vec<OpenedKey>, OpError> {
    let opened = sign::open(&keys.keys, &keys.public_keys, surroundings(environment))?;
    opened.iter().filter_map(|key| key.warning.as_ref()).for_each(|text| reporter.note(&format!("warning: {text}")));
    Ok(opened)
}

/// `keygen`
pub fn generate(prefix: &Path, as_json: bool) -> Result<ExitCode, OpError> {
    let made = ops::keys::generate(prefix)?;
    if as_json {
        print(&json!({ "id": made.id, "private": made.private, "public": made.public }));
    } else {
        line(&made.id.hex());
    }
    Ok(ExitCode::SUCCESS)
}

/// `sign`
pub fn sign(
    environment: &Environment,
    reporter: &dyn Reporter,
    target: &Path,
    keys: &SigningKeys,
    as_json: bool,
) -> Result<ExitCode, OpError> {
    if keys.keys.is_empty() {
        return Err(PublishError::Usage("--key says which key signs").into());
    }
    let keys = BlobKey::open(&keys.keys, &keys.public_keys, surroundings(environment))?;
    keys.iter().filter_map(BlobKey::warning).for_each(|text| reporter.note(&format!("warning: {text}")));
    let signed = match ops::sign::sign_any(target, &keys)? {
        Outcome::Document(signed) => signed,
        Outcome::File { path, by, written } => {
            match as_json {
                true => print(&json!({ "path": path, "by": by, "written": written })),
                false if written.is_empty() => reporter.note(&format!("{}: nothing changed", path.display())),
                false => written.iter().for_each(|path| line(&path.display().to_string())),
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    if as_json {
        print(&json!({
            "path": signed.path, "title": signed.title, "sha256": signed.digest, "by": signed.by,
            "signatures": signed.signatures,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    reporter.note(&format!("{}, sha256 {}", signed.title, signed.digest));
    signed.by.iter().for_each(|id| line(&format!("{}: signed by {id}", signed.path.display())));
    Ok(ExitCode::SUCCESS)
}

/// `keys`
pub fn keys(environment: &Environment, reporter: &dyn Reporter, command: &KeysCommand) -> Result<ExitCode, OpError> {
    let seconds = |time: &Option<ksos_compose::manifest::types::Duration>| time.map(|time| time.milliseconds / 1000);
    let (written, as_json) = match command {
        KeysCommand::New { members, threshold, valid_for, keys, out, json } => {
            let keys = open(environment, reporter, keys)?;
            (ops::keys::new_set(members, *threshold, seconds(valid_for), &keys, out)?, *json)
        }
        KeysCommand::Rotate { old, add, remove, threshold, valid_for, keys, out, json } => {
            let keys = open(environment, reporter, keys)?;
            let (add, remove) = (add.clone(), remove.clone());
            let rotation = Rotation { add, remove, threshold: *threshold, valid_for: seconds(valid_for) };
            (ops::keys::rotate(old, &rotation, &keys, out.as_deref())?, *json)
        }
    };
    written_set(reporter, &written, as_json);
    Ok(ExitCode::SUCCESS)
}

fn written_set(reporter: &dyn Reporter, written: &WrittenSet, as_json: bool) {
    let WrittenSet { path, set, missing } = written;
    let ids: Vec<String> = set.keys.iter().map(|key| key.id().hex()).collect();
    if as_json {
        print(&json!({
            "path": path, "version": set.version, "threshold": set.threshold, "keys": ids, "expires": set.expires,
            "missing": missing,
        }));
        return;
    }
    line(&path.display().to_string());
    reporter.note(&format!("key set {}: {} of {} keys must sign", set.version, set.threshold, ids.len()));
    ids.iter().for_each(|id| reporter.note(&format!("  {id}")));
    missing.iter().for_each(|text| reporter.note(&format!("{text}; ksos-compose sign {} adds them", path.display())));
}

/// `publish`
pub fn publish(
    session: &Session,
    releases: &[PathBuf],
    to: &Path,
    options: &PublishOptions,
) -> Result<ExitCode, OpError> {
    // Two that publish at once would each lose what the other adds to the channel.
    let _exclusive = session.cache.exclusive(&session.environment.directory.join(to))?;
    let tree = Tree::new(to, session.progress.as_ref());
    let published = publish_with(session, &tree, releases, options)?;
    if options.json {
        print(&json_of(&published));
    } else {
        show(session.reporter.as_ref(), &published);
    }
    Ok(ExitCode::SUCCESS)
}

/// Publishes releases where `destination` says.
pub fn publish_with(
    session: &Session,
    destination: &dyn Destination,
    releases: &[PathBuf],
    options: &PublishOptions,
) -> Result<Published, OpError> {
    let channel = options.channel.as_deref().ok_or(PublishError::Usage("--channel says what leads to the releases"))?;
    let reporter = session.reporter.as_ref();
    let signers = open(&session.environment, reporter, &options.keys)?;
    let trust = match Trust::read(&options.trusted, &[], &session.environment.directory)? {
        Some(trust) => trust,
        None if signers.is_empty() => return Err(PublishError::Usage("neither --key nor --keys says who signs").into()),
        None => Trust::of_signers(&signers)?,
    };
    publish_to(
        destination,
        &Request {
            releases,
            channel,
            signers: &signers,
            trust: &trust,
            change: Change {
                remove: &options.remove,
                replace: options.replace,
                refresh: options.refresh,
                sequence: options.sequence,
                valid_for: options.valid_for.map(|time| time.milliseconds / 1000),
            },
            image: options.image.as_deref().zip(options.arch),
            draft: options.draft.as_deref(),
            drafted: options.from_draft.as_deref(),
        },
    )
}

/// Returns what was published, as JSON.
pub fn json_of(published: &Published) -> Value {
    let Published { releases, channels, key_sets } = published;
    let releases: Vec<Value> = releases
        .iter()
        .map(|release| json!({ "place": release.place, "sha256": release.digest, "bytes": release.bytes }))
        .collect();
    let channels: Vec<Value> = channels
        .iter()
        .map(|channel| {
            json!({
                "place": channel.place, "sequence": channel.sequence, "versions": channel.versions,
                "changed": channel.changed, "draft": channel.draft,
            })
        })
        .collect();
    json!({ "releases": releases, "channels": channels, "key_sets": key_sets })
}

/// Tells what was published.
pub fn show(reporter: &dyn Reporter, published: &Published) {
    let Published { releases, channels, key_sets } = published;
    key_sets.iter().for_each(|version| reporter.note(&format!("key set {version} is published")));
    for release in releases {
        match release.bytes {
            0 => reporter.note(&format!("{}: nothing changed", release.place)),
            bytes => reporter.note(&format!("{}: {}", release.place, progress::size(bytes))),
        }
    }
    for channel in channels {
        let newest = channel.versions.last().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let state = match (channel.draft, channel.changed) {
            (true, _) => "draft",
            (false, true) => "published",
            (false, false) => "nothing changed",
        };
        line(&format!("{}: sequence {}, newest {newest}, {state}", channel.place, channel.sequence));
    }
}

/// `verify` of a file beside its digests and signatures.
fn verify_file(session: &Session, arguments: &VerifyArguments) -> Result<ExitCode, OpError> {
    let path = session.environment.directory.join(&arguments.target);
    if !arguments.key_sets.is_empty() {
        return Err(PublishError::Usage("a file is verified by --key; key sets are for releases and channels").into());
    }
    let all = public_keys(session, arguments.keys.iter())?;
    let any = public_keys(session, arguments.cosign_keys.iter())?;
    let keys = ops::verify_file::Keys { all: &all, any: &any };
    let findings = ops::verify_file::verify(session, &path, &arguments.target, keys)?;
    Ok(told(&findings, arguments))
}

/// `verify` of an image in a registry; none when it is something else.
fn verify_image(session: &Session, arguments: &VerifyArguments) -> Result<Option<ExitCode>, OpError> {
    let keys = public_keys(session, arguments.cosign_keys.iter())?;
    let findings = ops::verify_image::verify(session, &arguments.target, &keys)?;
    Ok(findings.map(|findings| told(&findings, arguments)))
}

/// Prints what was found; returns how the command ends.
fn told(findings: &Findings, arguments: &VerifyArguments) -> ExitCode {
    show_findings(findings, arguments.json);
    if findings.is_good() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn public_keys<'a>(session: &Session, files: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<Key>, OpError> {
    let read = |path: &PathBuf| {
        let bytes = fs::read(&session.environment.directory.join(path), KEY_FILE_LIMIT)?;
        cosign_key(&bytes).map_err(|source| OpError::UpdateKey { path: path.clone(), source })
    };
    files.map(read).collect()
}

/// `verify` of what is published, and of files.
pub fn verify(session: &Session, arguments: &VerifyArguments) -> Result<ExitCode, OpError> {
    let directory = &session.environment.directory;
    if verify_artifact::is_file(session, &arguments.target) {
        return verify_file(session, arguments);
    }
    if !arguments.target.contains("://") {
        fs::metadata(&directory.join(&arguments.target))?;
    }
    if let Some(code) = verify_image(session, arguments)? {
        return Ok(code);
    }
    let trust = Trust::read(&arguments.key_sets, &arguments.keys, directory)?;
    let trust = trust.ok_or(PublishError::Usage("--key or --keys says whose signatures count"))?;
    let cosign = public_keys(session, arguments.cosign_keys.iter())?;
    let trusted = Trusted { trust: &trust, cosign: &cosign };
    let findings = verify_artifact::verify(session, &arguments.target, &trusted)?;
    Ok(told(&findings, arguments))
}

fn show_findings(findings: &Findings, as_json: bool) {
    if as_json {
        let listed: Vec<Value> = findings
            .0
            .iter()
            .map(|finding| {
                let (ok, text) = match &finding.result {
                    Ok(text) => (true, text),
                    Err(text) => (false, text),
                };
                json!({ "what": finding.what, "ok": ok, "detail": text })
            })
            .collect();
        print(&json!({ "ok": findings.is_good(), "findings": listed }));
        return;
    }
    for finding in &findings.0 {
        match &finding.result {
            Ok(text) => line(&format!("ok      {}: {text}", finding.what)),
            Err(text) => line(&format!("FAILED  {}: {text}", finding.what)),
        }
    }
}
