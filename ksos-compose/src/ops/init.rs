//! `init`: writes a commented manifest to start from, and a workflow when one is asked for.
//!
//! The manifest extends those of KubeSolo OS, which it refers to by a relative path. It is checked before it appears;
//! files that exist stay as they are.

use std::path::{Component, Path, PathBuf};

use ksos_formats::Arch;

use super::OpError;
use crate::cli::{CiSystem, InitArguments, Template};
use crate::effects::fs::{self, AtomicFile, Context, FsError};
use crate::manifest;

/// File name when a directory is named.
const FILE_NAME: &str = "kubesolo-os.toml";
/// What makes a directory the one with KubeSolo OS's manifests.
const BASE: &str = "base.toml";
const GITIGNORE_LIMIT: u64 = 1 << 20;

const KUBESOLO: &str = include_str!("init/kubesolo.toml");
const CONTAINERD: &str = include_str!("init/containerd.toml");
const GITHUB: &str = include_str!("../../../examples/ci/github.yml");
const GITLAB: &str = include_str!("../../../examples/ci/gitlab-ci.yml");
const GITEA: &str = include_str!("../../../examples/ci/gitea.yml");

/// A starter was not written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file that is there.
    #[error("{} exists; nothing was written", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The manifests to extend are not there.
    #[error("no manifests of KubeSolo OS ({BASE}) {}", place.display())]
    NoManifests {
        /// Where they were looked for: `in DIR`, or `in manifests/ of DIR or above it`.
        place: Place,
    },
}

/// Where manifests were looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory.
    In(PathBuf),
    /// In `manifests/` of a directory and of those above it.
    Above(PathBuf),
}

impl Place {
    fn display(&self) -> String {
        match self {
            Place::In(directory) => format!("in {}", directory.display()),
            Place::Above(directory) => {
                format!("in manifests/ of {} or of a directory above it; --manifests names it", directory.display())
            }
        }
    }
}

/// Writes what is asked for and returns the files.
///
/// # Errors
/// [`InitError`]; a name that no image can have.
pub fn init(arguments: &InitArguments) -> Result<Vec<PathBuf>, OpError> {
    let is_file = arguments.to.extension().is_some_and(|extension| extension == "toml");
    let path = if is_file { arguments.to.clone() } else { arguments.to.join(FILE_NAME) };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let workflow = arguments.ci.map(|system| workflow(directory, &path, system)).transpose()?;
    for path in std::iter::once(&path).chain(workflow.iter().map(|(path, _)| path)) {
        if fs::symlink_metadata(path).is_ok() {
            return Err(InitError::Exists { path: path.clone() }.into());
        }
    }
    fs::create_dir_all(directory)?;
    write_manifest(&path, &text(arguments, directory)?)?;
    let mut written = vec![path.clone()];
    if let Some((path, text)) = workflow {
        write_new(&path, &text)?;
        written.push(path);
        written.extend(ignore(&top(directory)?, "/out/")?);
    }
    Ok(written)
}

fn text(arguments: &InitArguments, directory: &Path) -> Result<String, OpError> {
    let manifests = match &arguments.manifests {
        Some(given) if fs::metadata(&given.join(BASE)).is_ok() => given.clone(),
        Some(given) => return Err(InitError::NoManifests { place: Place::In(given.clone()) }.into()),
        None => find(&absolute(directory)?).ok_or_else(|| {
            let place = Place::Above(directory.to_owned());
            InitError::NoManifests { place }
        })?,
    };
    let manifests = relative(&absolute(directory)?, &absolute(&manifests)?);
    let (template, kind) = match arguments.template {
        Template::Kubesolo => (KUBESOLO, "generic"),
        Template::Cloud => (KUBESOLO, "cloud"),
        Template::Containerd => (CONTAINERD, ""),
    };
    let arch = arguments.arch;
    let console = match arch {
        Arch::X86_64 => "ttyS0",
        Arch::Arm64 => "ttyAMA0",
    };
    Ok(template
        .replace("@MANIFESTS@", &manifests)
        .replace("@SCHEMA@", &format!("{}docs/schema/manifest.schema.json", parent(&manifests)))
        .replace("@EXAMPLES@", &format!("{}examples", parent(&manifests)))
        .replace("@NAME@", &toml_text(&arguments.name))
        .replace("@ARCH@", &arch.to_string())
        .replace("@CONSOLE@", console)
        .replace("@KIND@", kind))
}

/// Returns the content of a TOML string.
fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string().trim_matches(['"', '\'']).to_owned()
}

fn absolute(path: &Path) -> Result<PathBuf, FsError> {
    let path = std::path::absolute(path).context("resolve", path)?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    Ok(clean)
}

/// Looks for the manifests in `directory` and above it.
fn find(directory: &Path) -> Option<PathBuf> {
    let here = directory.ancestors().take(1).filter(|here| fs::metadata(&here.join(BASE)).is_ok());
    let below = directory.ancestors().map(|above| above.join("manifests"));
    here.map(Path::to_owned).chain(below).find(|place| fs::metadata(&place.join(BASE)).is_ok())
}

/// Returns the way from one directory to another, both absolute, with `/` at its end; empty when they are one.
fn relative(from: &Path, to: &Path) -> String {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| "..".to_owned());
    let down = to.components().skip(common).map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).map(|part| part + "/").collect()
}

/// Returns the directory above the one that `way` leads to.
fn parent(way: &str) -> String {
    match way.trim_end_matches('/').rsplit_once('/') {
        Some((above, last)) if last != ".." => format!("{above}/"),
        None if !way.is_empty() && way != "../" => String::new(),
        _ => format!("{way}../"),
    }
}

/// Writes the manifest, once it is one.
fn write_manifest(path: &Path, text: &str) -> Result<(), OpError> {
    let mut file = AtomicFile::create(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context("write", path)?;
    let files = manifest::DiskWithout { replaced: std::collections::BTreeSet::new(), all: true };
    manifest::load(file.temporary_path(), None, &files)?;
    commit(file, path)
}

fn write_new(path: &Path, text: &str) -> Result<(), OpError> {
    let mut file = AtomicFile::create(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context("write", path)?;
    commit(file, path)
}

fn commit(file: AtomicFile, path: &Path) -> Result<(), OpError> {
    file.commit_new(0o644).map_err(|error| match error.source.kind() {
        std::io::ErrorKind::AlreadyExists => InitError::Exists { path: path.to_owned() }.into(),
        _ => error.into(),
    })
}

/// Returns the top of the repository that `directory` is in, or `directory`.
fn top(directory: &Path) -> Result<PathBuf, FsError> {
    let directory = absolute(directory)?;
    let top = directory.ancestors().find(|above| fs::metadata(&above.join(".git")).is_ok());
    Ok(top.unwrap_or(&directory).to_owned())
}

fn workflow(directory: &Path, manifest: &Path, system: CiSystem) -> Result<(PathBuf, String), FsError> {
    let top = top(directory)?;
    let (place, text) = match system {
        CiSystem::Github => (".github/workflows/image.yml", GITHUB),
        CiSystem::Gitlab => (".gitlab-ci.yml", GITLAB),
        CiSystem::Gitea => (".gitea/workflows/image.yml", GITEA),
    };
    let way = relative(&top, &absolute(directory)?);
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    Ok((top.join(place), text.replace(&format!("MANIFEST: {FILE_NAME}"), &format!("MANIFEST: {way}{name}"))))
}

/// Adds `line` to `.gitignore`, unless it is there; returns the file when it was written.
fn ignore(directory: &Path, line: &str) -> Result<Option<PathBuf>, FsError> {
    let path = directory.join(".gitignore");
    let mut text = match fs::metadata(&path) {
        Ok(_) => fs::read_to_string(&path, GITIGNORE_LIMIT)?,
        Err(_) => String::new(),
    };
    if text.lines().any(|known| known.trim_matches('/') == line.trim_matches('/')) {
        return Ok(None);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    fs::write_atomic(&path, text.as_bytes())?;
    Ok(Some(path))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files of their own")]
mod tests {
    use super::*;

    #[test]
    fn the_way_from_one_directory_to_another() {
        for (from, to, way, above) in [
            ("/a/b", "/a/b", "", "../"),
            ("/a", "/a/manifests", "manifests/", ""),
            ("/a/examples", "/a/manifests", "../manifests/", "../"),
            ("/a/b/c", "/a", "../../", "../../../"),
            ("/a/b", "/a", "../", "../../"),
            ("/x", "/a/b/manifests", "../a/b/manifests/", "../a/b/"),
        ] {
            let found = relative(Path::new(from), Path::new(to));
            assert_eq!((found.as_str(), parent(&found).as_str()), (way, above), "{from} -> {to}");
        }
    }

    #[test]
    fn gitignore_gets_a_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".gitignore");
        for before in ["", "/target", "/target\n"] {
            std::fs::write(&path, before).unwrap();
            assert!(ignore(directory.path(), "/out/").unwrap().is_some());
            assert!(ignore(directory.path(), "/out/").unwrap().is_none());
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().filter(|line| *line == "/out/").count(), 1, "{text}");
            assert!(text.starts_with(before.trim_end()) && text.ends_with("\n/out/\n") != before.is_empty());
        }
    }
}
