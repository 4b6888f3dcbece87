//! `test` as the command line asks for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ksos_formats::boot::ImageId;
use ksos_formats::update::{self, Channel, ChannelRelease, Envelope, envelope::Payload};
use serde_json::json;

use super::machine::{Qemu, Source};
use super::report::{Case, Report, Verdict};
use super::scenario::{self, Expected, ExpectedUpdate};
use super::server::Server;
use super::tree;
use crate::effects::fs::{self, Context};
use crate::image::{DiskImage, Slot};
use crate::ops::OpError;
use crate::ops::run::request::size;
use crate::ops::run::seed::{Seed, complete};
use crate::ops::run::{RunError, RunOptions, set_up};
use crate::sign::OpenedKey;

/// The host, as QEMU's user network shows it to the guest (QEMU "Using the user mode network stack").
const HOST: &str = "10.0.2.2";
/// Largest configuration, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;
/// Most of a console's log that is kept, in bytes.
const LOG_LIMIT: u64 = 64 << 20;

/// What the command line says.
#[derive(Debug)]
pub struct Request<'a> {
    /// What the node updates to.
    pub update: Option<Update<'a>>,
    /// A configuration as a site writes it.
    pub config: Option<&'a Path>,
    /// Seconds for each step.
    pub timeout: u64,
    /// Memory: bytes, or with a unit (`512M`, `1GiB`).
    pub memory: &'a str,
    /// Enforce Secure Boot.
    pub secure_boot: bool,
    /// Further arguments of QEMU.
    pub extra: &'a [String],
    /// Directory for the logs of consoles whose cases failed.
    pub logs: &'a Path,
    /// `PATH`.
    pub search_path: OsString,
}

/// What the node updates to.
#[derive(Debug)]
pub enum Update<'a> {
    /// The newest release in a channel of a published tree.
    Tree {
        /// Its directory.
        path: &'a Path,
        /// The channel.
        channel: &'a str,
    },
    /// A release that is not published yet.
    Release {
        /// Its directory, `NAME-VERSION-ARCH.update`.
        path: &'a Path,
        /// Keys that sign the channel that the node sees, and the release.
        keys: &'a [OpenedKey],
    },
}

/// A test cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The image has no system in slot A.
    #[error("{} has no system in its slot A", .0.display())]
    NoSystem(PathBuf),
    /// A signed document is not what it should be.
    #[error("{}: {reason}", path.display())]
    Document {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The channel has nothing for this image.
    #[error("{}: channel {channel} has nothing newer than {version}", path.display())]
    NothingNewer {
        /// The document.
        path: PathBuf,
        /// The channel.
        channel: String,
        /// Version of the image.
        version: String,
    },
}

/// Tests `image`. `note` gets what the user should know, `done` each case as it ends.
///
/// # Errors
/// Missing programs or firmware, unusable values, an unreadable image or tree. What the node did wrong is in the
/// [`Report`].
pub fn test(image: &Path, request: &Request<'_>, note: &dyn Fn(&str), done: &dyn Fn(&Case)) -> Result<Report, OpError> {
    let id = image_id(image)?;
    // The tree that is made for a release goes when the test is over.
    let made = match &request.update {
        Some(Update::Release { path, keys }) => Some(tree::make(path, keys)?),
        _ => None,
    };
    let published = match (&request.update, &made) {
        (Some(Update::Tree { path, channel }), _) => Some((*path, *channel)),
        (_, made) => made.as_ref().map(|made| (made.path(), tree::CHANNEL)),
    };
    let update = published.map(|(tree, channel)| wanted(tree, channel, &id)).transpose()?;
    let mut options = RunOptions::new(id.arch, request.search_path.clone());
    options.memory = size(request.memory)?;
    options.secure_boot = request.secure_boot;
    options.extra = request.extra.to_vec();
    let source = published.map(|(tree, channel)| serve(tree, channel, &id)).transpose()?;
    options.seed = seed(request.config, source.as_ref().zip(published))?;
    let setup = set_up(&options)?;
    if let Some(reason) = &setup.reason {
        note(&format!("{}: {reason}", setup.accelerator.name()));
    }
    let mut lab = Qemu::new(image, options, setup, source)?;
    let expected = Expected { version: id.version.clone(), update };
    let cases = scenario::run(&mut lab, &expected, Duration::from_secs(request.timeout), done);
    let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut report = Report { image: name, cases, logs: Vec::new() };
    keep_logs(&lab, request.logs, &mut report)?;
    Ok(report)
}

/// Reads which image this is out of its slot A.
fn image_id(image: &Path) -> Result<ImageId, OpError> {
    let disk = DiskImage::open(image)?;
    for partition in &disk.partitions {
        if let Some(slot) = Slot::open(&disk, partition)? {
            return Ok(slot.metadata.image);
        }
    }
    Err(TestError::NoSystem(image.to_owned()).into())
}

/// Reads which release of a tree the node should take. The document is not verified here: the node does that.
fn wanted(tree: &Path, channel: &str, id: &ImageId) -> Result<ExpectedUpdate, OpError> {
    let path = tree.join(update::channel_path(channel, &id.name, id.arch));
    let bytes = fs::read(&path, update::ENVELOPE_LIMIT)?;
    let wrong = |reason: String| TestError::Document { path: path.clone(), reason };
    let envelope = Envelope::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    if envelope.payload_type != Channel::TYPE {
        return Err(wrong(format!("it is {:?}, not a channel", envelope.payload_type)).into());
    }
    let document: Channel = serde_json::from_slice(&envelope.payload).map_err(|error| wrong(error.to_string()))?;
    let current: update::Version =
        id.version.parse().map_err(|error| wrong(format!("the image's version: {error}")))?;
    let newer = document.releases.iter().filter(|release| release.version.is_newer_than(&current));
    let Some(ChannelRelease { version, .. }) = newer.max_by(|a, b| a.version.precedence(&b.version)) else {
        let (channel, version) = (channel.to_owned(), id.version.clone());
        return Err(TestError::NothingNewer { path, channel, version }.into());
    };
    let release = tree.join(update::release_name(&id.name, version, id.arch) + update::RELEASE_SUFFIX);
    let chunks = fs::metadata(&release.join(update::CHUNKS_FILE))?.len();
    Ok(ExpectedUpdate { version: version.to_string(), chunks })
}

fn serve(tree: &Path, channel: &str, id: &ImageId) -> Result<Source, OpError> {
    Ok(Source { server: Server::start(tree)?, channel: update::channel_path(channel, &id.name, id.arch) })
}

/// Returns the node's configuration: what the user gave, and the update source.
fn seed(config: Option<&Path>, source: Option<(&Source, (&Path, &str))>) -> Result<Option<Seed>, OpError> {
    let config = config.map(|path| fs::read_to_string(path, CONFIG_LIMIT)).transpose()?;
    let mut additions = Vec::new();
    if let Some((source, (_, channel))) = source {
        let updates = json!({
            "automatic": true, "source": format!("http://{HOST}:{}", source.server.port()), "channel": channel,
            "interval": "1m", "windows": [],
        });
        additions.push(("--update", "updates", updates));
    }
    if config.is_none() && additions.is_empty() {
        return Ok(None);
    }
    let user_data = complete(config.as_deref(), &additions).map_err(RunError::from)?;
    Ok(Some(Seed { user_data, network_config: None }))
}

/// Keeps the console's logs of groups in which a case failed.
fn keep_logs(lab: &Qemu<'_>, directory: &Path, report: &mut Report) -> Result<(), OpError> {
    let failed = |case: &&Case| matches!(case.verdict, Verdict::Failed { .. });
    let mut groups: Vec<&'static str> = report.cases.iter().filter(failed).map(|case| case.group).collect();
    groups.dedup();
    let stem = report.image.strip_suffix(".img").unwrap_or(&report.image).to_owned();
    for group in groups {
        let log = lab.log(group);
        // A machine that did not start has none.
        if fs::metadata(&log).is_err() {
            continue;
        }
        let target = directory.join(format!("{stem}-{group}.log"));
        fs::write_atomic(&target, &tail(&log)?)?;
        report.logs.push((group, target));
    }
    Ok(())
}

/// Writes the report as JUnit XML.
///
/// # Errors
/// The file cannot be written.
pub fn write_junit(report: &Report, path: &Path) -> Result<(), OpError> {
    Ok(fs::write_atomic(path, report.to_junit().as_bytes())?)
}

/// Reads a log, of a very long one the end.
fn tail(path: &Path) -> Result<Vec<u8>, OpError> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::open(path)?;
    let size = file.metadata().context("stat", path)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_LIMIT))).context("read", path)?;
    let mut bytes = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut bytes).context("read", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ksos_formats::Arch;

    use super::*;
    use crate::ops::test::tree::tests::{key, release};

    fn id(version: &str) -> ImageId {
        ImageId { name: "os".to_owned(), version: version.to_owned(), arch: Arch::X86_64, epoch: 0 }
    }

    #[test]
    fn the_newest_release_of_the_channel_is_expected() {
        let directory = tempfile::tempdir().unwrap();
        release(directory.path(), "1.1.0");
        let tree = tree::make(directory.path(), &[key(1)]).unwrap();
        let update = wanted(tree.path(), tree::CHANNEL, &id("1.0.0")).unwrap();
        assert_eq!(update, ExpectedUpdate { version: "1.1.0".to_owned(), chunks: 6 });
        let error = |channel: &str, version: &str| wanted(tree.path(), channel, &id(version)).unwrap_err().to_string();
        assert!(error(tree::CHANNEL, "1.1.0").ends_with("channel test has nothing newer than 1.1.0"));
        assert!(error("stable", "1.0.0").contains("channels/stable/os-x86_64.json"));
        assert!(error(tree::CHANNEL, "one").contains("the image's version"));
        let path = tree.path().join("channels/test/os-x86_64.json");
        fs::write_atomic(&path, &fs::read(&directory.path().join(update::RELEASE_FILE), 1 << 20).unwrap()).unwrap();
        assert!(error(tree::CHANNEL, "1.0.0").contains("not a channel"));
    }

    #[test]
    fn the_node_gets_the_source_beside_what_the_user_says() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("node.yaml");
        let source = serve(directory.path(), "test", &id("1.0.0")).unwrap();
        let told = |config: Option<&Path>| seed(config, Some((&source, (directory.path(), "test"))));
        fs::write_atomic(&config, b"hostname: a\n").unwrap();
        let text = told(Some(&config)).unwrap().unwrap().user_data;
        let document = ksos_formats::config::parse_document(&text).unwrap().document;
        assert_eq!(document.hostname.as_deref(), Some("a"));
        assert_eq!(document.updates.source, Some(format!("http://10.0.2.2:{}", source.server.port())));
        assert_eq!((document.updates.automatic, document.updates.windows), (Some(true), Some(Vec::new())));
        fs::write_atomic(&config, b"updates: {automatic: false}\n").unwrap();
        let error = told(Some(&config)).unwrap_err().to_string();
        assert_eq!(error, "--update sets `updates`, which the configuration has already");
        assert_eq!(seed(None, None).unwrap(), None);
    }
}
