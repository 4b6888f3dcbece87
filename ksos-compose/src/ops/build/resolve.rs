//! From a manifest to a project whose every input is pinned: the lock file where it holds, the network where it must.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ksos_formats::{Arch, Digest};

use super::stamp::Watch;
use super::{local, sources};
use crate::cache::stat::StatCache;
use crate::effects::net::{Downloader, NetOptions, ProxyVariables};
use crate::effects::{clock, fs};
use crate::lock::{self, Lock};
use crate::manifest::keys::{KEY_FILE_LIMIT, KeyFile, KeyFileError, cosign_key, key_set};
use crate::manifest::{self, Component, HostPath, Loaded, Manifest, OutputFormat, Source};
use crate::ops::{LockMode, OpError, Session, Target};
use crate::plan::{
    self, Download, LocalTree, Package, Plan, Program, Resolved, ResolvedComponent, ResolvedImage, Trust,
};
use crate::source::apt::{self, mirror};
use crate::source::{cargo, http, oci};

/// The largest keyring or option list read, in bytes.
const TEXT_LIMIT: u64 = 4 << 20;

/// A manifest whose every input is pinned.
pub struct Project {
    pub(super) loaded: Loaded,
    /// The target it was opened from.
    pub target: Target,
    /// The network must not be used.
    pub offline: bool,
    /// Build epoch, seconds since 1970.
    pub epoch: u64,
    /// Every component.
    pub components: BTreeMap<String, ResolvedComponent>,
    /// Overlay directories.
    pub overlays: BTreeMap<String, LocalTree>,
    /// Container images that are not built here.
    pub images: BTreeMap<String, ResolvedImage>,
    /// What container image registries are told.
    pub registries: oci::Registries,
    /// Archives and layouts of container images on this machine: where, and their digests.
    pub(super) local_images: BTreeMap<String, (PathBuf, Digest)>,
    /// What the node trusts, when it takes updates.
    pub trust: Option<Trust>,
    /// Required kernel options: file and text.
    pub required_options: Vec<(String, String)>,
    /// Package archives by name.
    pub repositories: BTreeMap<String, apt::Repository>,
    /// Downloads.
    pub fetch: Downloader,
    /// The remote cache, once it was asked for.
    pub(super) remote: OnceLock<Option<super::remote::Shared>>,
    /// Steps that did not run because of it.
    pub(super) from_remote: OnceLock<Vec<String>>,
}

impl Project {
    /// Opens the target's manifest and pins every input; writes the lock file when `mode` lets it.
    ///
    /// # Errors
    /// Manifest errors; a source that cannot be resolved; a lock that would change under `--locked`.
    pub fn open(session: &Session, target: &Target, mode: LockMode, watch: &mut Watch) -> Result<Self, OpError> {
        watch.path(&session.environment.directory.join(&target.manifest));
        let files = manifest::DiskWithout { replaced: target.components.keys().cloned().collect(), all: false };
        let mut project = Project::load(session, target, mode, &files)?;
        project.loaded.files.iter().for_each(|file| watch.path(file));
        project.loaded.warnings.iter().for_each(|warning| session.reporter.note(&warning.to_string()));
        crate::ops::check::unsigned_kernel(project.manifest()).iter().for_each(|note| session.reporter.note(note));
        let stats = StatCache::open(&session.cache);
        project.read_local(session, &stats, watch)?;
        project.resolve(session, mode, &stats, watch)?;
        // The next build hashes again what cannot be kept.
        let _ = stats.save();
        Ok(project)
    }

    /// Reads the target's manifest and nothing else: no component is resolved.
    ///
    /// # Errors
    /// Manifest errors; an unreadable keyring.
    pub fn load(
        session: &Session,
        target: &Target,
        mode: LockMode,
        files: &dyn manifest::Files,
    ) -> Result<Self, OpError> {
        let mut loaded = manifest::load(&target.manifest, target.arch, files)?;
        if !target.formats.is_empty() {
            loaded.manifest.outputs.formats = target.formats.clone();
        }
        if target.formats.contains(&OutputFormat::Update) && !loaded.manifest.update.is_enabled() {
            return Err(OpError::NoUpdateKeys { name: loaded.manifest.image.name });
        }
        let repositories = repositories(session, &loaded.manifest)?;
        let epoch = epoch(session)?;
        Ok(Project {
            loaded,
            target: target.clone(),
            offline: mode.offline,
            epoch,
            components: BTreeMap::new(),
            overlays: BTreeMap::new(),
            images: BTreeMap::new(),
            registries: oci::Registries::new(|name| session.environment.variable(name).map(str::to_owned)),
            local_images: BTreeMap::new(),
            trust: None,
            required_options: Vec::new(),
            repositories,
            fetch: downloader(session, mode),
            remote: OnceLock::new(),
            from_remote: OnceLock::new(),
        })
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.loaded.manifest
    }

    /// Returns the architecture.
    pub fn arch(&self) -> Arch {
        self.loaded.arch
    }

    /// Returns what names this project's history: manifest and architecture.
    pub fn history_scope(&self) -> String {
        format!("{}\0{}", self.loaded.path.display(), self.loaded.arch)
    }

    /// Returns the plan.
    pub fn plan(&self) -> Plan {
        plan::plan(&plan::Inputs {
            manifest: self.manifest(),
            arch: self.arch(),
            epoch: self.epoch,
            components: &self.components,
            overlays: &self.overlays,
            images: &self.images,
            trust: self.trust.as_ref(),
            required_options: &self.required_options,
            composer: env!("CARGO_PKG_VERSION"),
        })
    }

    fn read_local(&mut self, session: &Session, stats: &StatCache, watch: &mut Watch) -> Result<(), OpError> {
        for (name, overlay) in &self.loaded.manifest.overlays {
            let tree = local::directory(overlay.source.path(), self.epoch, stats, watch)?;
            self.overlays.insert(name.clone(), tree);
        }
        self.read_local_images(session, stats, watch)?;
        for path in &self.loaded.manifest.kernel.required_options_files {
            watch.path(path.path());
            let text = fs::read_to_string(path.path(), TEXT_LIMIT)?;
            self.required_options.push((path.to_string(), text));
        }
        for repository in self.loaded.manifest.apt.values() {
            watch.path(repository.keyring.path());
        }
        self.trust = trust(&self.loaded.manifest, watch)?;
        Ok(())
    }

    /// Resolves every component: local ones directly, the others by the lock.
    fn resolve(
        &mut self,
        session: &Session,
        mode: LockMode,
        stats: &StatCache,
        watch: &mut Watch,
    ) -> Result<(), OpError> {
        let manifest = self.loaded.manifest.clone();
        let mut wanted = Vec::new();
        for (name, component) in &manifest.components {
            let replaced = self.target.components.get(name).map(|path| session.environment.directory.join(path));
            let content = match (&component.source, replaced) {
                (_, Some(path)) => {
                    fs::metadata(&path).map_err(|source| OpError::Replacement {
                        component: name.clone(),
                        path: path.clone(),
                        source,
                    })?;
                    Some(local::content(&path, stated_format(component), self.epoch, stats, watch)?)
                }
                (Source::File(file), None) => {
                    Some(local::content(file.path.path(), file.unpack.format, self.epoch, stats, watch)?)
                }
                (Source::Cargo(source), None) => Some(program(session, self.arch(), name, source, watch)?),
                (Source::Kernel(source), None) => Some(sources::kernel(session, self.arch(), name, source, watch)?),
                (Source::TinyCore(source), None) if source.url.is_none() => {
                    Some(sources::local_tinycore(session, self.arch(), name, source, stats, watch)?)
                }
                (Source::Apt(_) | Source::Http(_) | Source::TinyCore(_), None) => None,
            };
            match content {
                Some(content) => {
                    self.components.insert(name.clone(), ResolvedComponent { content });
                    // A replaced component keeps what the lock has of it.
                    if component.source.is_locked() {
                        wanted.push(lock::Wanted { component: name.clone(), request: None });
                    }
                }
                None => {
                    let request = manifest.component_request_digest(name);
                    wanted.push(lock::Wanted { component: name.clone(), request });
                }
            }
        }
        wanted.extend(self.wanted_images(session)?);
        self.check_replaced()?;
        self.by_lock(session, mode, &wanted, watch)
    }

    fn by_lock(
        &mut self,
        session: &Session,
        mode: LockMode,
        wanted: &[lock::Wanted],
        watch: &mut Watch,
    ) -> Result<(), OpError> {
        let path = lock::path_for(&self.loaded.path);
        let new = {
            // Two builds of one manifest (for two architectures) must not lose each other's entries.
            let _guard = session.cache.exclusive(&path)?;
            let old = lock::read(&path)?.unwrap_or_default();
            let lock_mode = lock::Mode::new(mode.locked, mode.offline);
            let new = self.locked(session, wanted, &old, lock_mode, &lock::Update::Nothing)?;
            if new != old && lock_mode.may_change() {
                lock::write(&path, &new)?;
                watch.output(&path);
            }
            new
        };
        watch.path(&path);
        self.take(&new, wanted)
    }

    /// Returns the lock with every wanted component of this architecture in it.
    ///
    /// # Errors
    /// When a component cannot be resolved, or the lock would change and must not.
    pub fn locked(
        &self,
        session: &Session,
        wanted: &[lock::Wanted],
        old: &Lock,
        mode: lock::Mode,
        update: &lock::Update,
    ) -> Result<Lock, OpError> {
        let reconciled = lock::reconcile(self.arch(), wanted, old, mode, update)?;
        let mut new = old.clone();
        reconciled.unused.iter().for_each(|name| new.remove(self.arch(), name));
        let stale: Vec<&String> = reconciled
            .decisions
            .iter()
            .filter(|(_, decision)| matches!(decision, lock::Decision::Resolve(_)))
            .map(|(name, _)| name)
            .collect();
        let manifest = &self.loaded.manifest;
        let source = |name: &str| manifest.components.get(name).map(|component| &component.source);
        let apt = |name: &&String| matches!(source(name), Some(Source::Apt(_)));
        let archive = if stale.iter().any(apt) { Some(self.archive(&stale)?) } else { None };
        let universe = archive.as_ref().map(|archive| apt::Universe::new(archive, self.arch().debian()));
        for name in stale {
            if let Some(image) = lock::image_name(name) {
                let resolved = lock::Resolved::Oci(self.resolve_image(session, image)?);
                let request = manifest.container_image_request_digest(image).expect("the image is in the manifest");
                new.insert(self.arch(), name, lock::Component { request, resolved });
                continue;
            }
            let resolved = match (source(name), &universe) {
                (Some(Source::Apt(source)), Some(universe)) => resolve_packages(name, source, universe)?,
                (Some(Source::Http(source)), _) => self.resolve_download(session, name, source)?,
                (Some(Source::TinyCore(source)), _) => self.resolve_tinycore(session, name, source)?,
                _ => continue,
            };
            let request = manifest.component_request_digest(name).expect("the component is in the manifest");
            new.insert(self.arch(), name, lock::Component { request, resolved });
        }
        Ok(new)
    }

    /// Loads the indexes of the archives that the stale components use.
    fn archive(&self, stale: &[&String]) -> Result<apt::Archive, OpError> {
        let manifest = &self.loaded.manifest;
        let uses = |repository: &str| {
            stale.iter().any(|name| match manifest.components.get(*name).map(|component| &component.source) {
                Some(Source::Apt(source)) => manifest.repositories(source).iter().any(|(name, _)| *name == repository),
                _ => false,
            })
        };
        let used: Vec<_> = self.repositories.values().filter(|repository| uses(&repository.name)).cloned().collect();
        apt::load(&self.fetch, &used, &[self.arch().debian()], clock::now_seconds()).map_err(|source| {
            let packages = |name: &&String| {
                let component = manifest.components.get(*name);
                component.is_some_and(|component| matches!(component.source, Source::Apt(_)))
            };
            let components = stale.iter().copied().filter(packages).cloned().collect();
            OpError::Indexes { components, source: Box::new(source) }
        })
    }

    fn resolve_download(
        &self,
        session: &Session,
        name: &str,
        source: &manifest::HttpSource,
    ) -> Result<lock::Resolved, OpError> {
        let wanted = self.wanted_download(name, source)?;
        let resolved = http::resolve(&self.fetch, &wanted)
            .map_err(|source| OpError::Http { component: name.to_owned(), source: Box::new(source) })?;
        if let Some(note) = resolved.note {
            session.reporter.note(&note.to_string());
        }
        Ok(lock::Resolved::Http(resolved.pinned))
    }

    fn wanted_download(&self, name: &str, source: &manifest::HttpSource) -> Result<http::Wanted, OpError> {
        let request = http::Request {
            component: name,
            arch: self.arch(),
            version: source.version.as_deref(),
            url: &source.url,
            mirrors: &source.mirrors,
            checksums: source.checksums.as_deref(),
            sha256: source.sha256.get(self.arch()).copied(),
            limit: source.max_size.bytes(),
        };
        request.expand().map_err(|source| OpError::Http { component: name.to_owned(), source: Box::new(source) })
    }

    /// Takes what the lock has for every wanted component.
    fn take(&mut self, lock: &Lock, wanted: &[lock::Wanted]) -> Result<(), OpError> {
        for lock::Wanted { component: name, request } in wanted {
            if request.is_none() {
                continue;
            }
            let locked = lock.get(self.arch(), name).expect("every wanted component was locked");
            if let (Some(image), lock::Resolved::Oci(pinned)) = (lock::image_name(name), &locked.resolved) {
                self.take_image(image, pinned);
                continue;
            }
            let Some(component) = self.loaded.manifest.components.get(name) else {
                return Err(OpError::LockKind { component: name.clone() });
            };
            let content = match (&locked.resolved, &component.source) {
                (lock::Resolved::Apt(packages), _) => {
                    let packages = packages.iter().map(|package| self.package(name, package));
                    Resolved::Packages(packages.collect::<Result<_, _>>()?)
                }
                (lock::Resolved::Http(pinned), Source::Http(source)) => {
                    let wanted = self.wanted_download(name, source)?;
                    Resolved::Download(Download {
                        name: wanted.file_name().to_owned(),
                        format: local::archive_format(source.unpack.format, wanted.file_name()),
                        urls: wanted.urls,
                        size: Some(pinned.size),
                        sha256: pinned.sha256,
                        limit: wanted.limit.max(pinned.size),
                        package: None,
                    })
                }
                (lock::Resolved::TinyCore(files), Source::TinyCore(source)) => sources::locked_tinycore(source, files),
                (lock::Resolved::Http(_) | lock::Resolved::Oci(_) | lock::Resolved::TinyCore(_), _) => {
                    return Err(OpError::LockKind { component: name.clone() });
                }
            };
            self.components.insert(name.clone(), ResolvedComponent { content });
        }
        Ok(())
    }

    fn package(&self, component: &str, package: &lock::Package) -> Result<Package, OpError> {
        let lock::Package { name, architecture, version, repository, path, size, sha256, source, license: _ } =
            package.clone();
        let Some(found) = self.repositories.get(&repository) else {
            return Err(OpError::LockRepository { component: component.to_owned(), name, repository });
        };
        let pinned = apt::Pinned {
            source: source.unwrap_or_else(|| name.clone()),
            section: String::new(),
            name,
            version,
            architecture,
            repository,
            path,
            size,
            sha256,
        };
        Ok(Package { urls: apt::pool::urls(&pinned, &found.mirrors), component: component.to_owned(), pinned })
    }
}

fn program(
    session: &Session,
    arch: Arch,
    name: &str,
    source: &manifest::CargoSource,
    watch: &mut Watch,
) -> Result<Resolved, OpError> {
    let mut program = Program {
        component: name.to_owned(),
        sources: ksos_formats::Digest([0; 32]),
        workspace: source.path.path().to_owned(),
        package: source.package.clone(),
        binary: source.binary().to_owned(),
        profile: source.profile.clone(),
        toolchain: String::new(),
    };
    let failed = |source| OpError::Cargo { component: name.to_owned(), source: Box::new(source) };
    for file in cargo::inputs::files(&program.workspace, &program.package).map_err(failed)? {
        // Directories, too: a new file counts.
        watch.path(program.workspace.join(&file).parent().unwrap_or(&program.workspace));
        watch.path(&program.workspace.join(file));
    }
    let environment = session.environment.pairs();
    let cache = session.cache.bucket("cargo");
    program.sources =
        cargo::inputs::digest(&cargo_build(&program, arch, &environment, &cache, false)).map_err(failed)?;
    // Without a compiler the step may still be fresh; if it is not, it says what is missing.
    program.toolchain = match cargo::toolchain::installed(&cargo_build(&program, arch, &environment, &cache, false)) {
        Ok(Some(toolchain)) => toolchain.identity().to_owned(),
        Ok(None) => "debian".to_owned(),
        Err(_) => String::new(),
    };
    Ok(Resolved::Program(program))
}

/// Returns how a program is built. Its epoch is fixed: nothing in it depends on the time.
pub fn cargo_build<'a>(
    program: &'a Program,
    arch: Arch,
    environment: &'a [(OsString, OsString)],
    cache: &'a Path,
    offline: bool,
) -> cargo::Build<'a> {
    cargo::Build {
        workspace: &program.workspace,
        package: &program.package,
        profile: &program.profile,
        bin: &program.binary,
        arch,
        cache,
        environment,
        epoch: 0,
        offline,
    }
}

fn resolve_packages(
    name: &str,
    source: &manifest::AptSource,
    universe: &apt::Universe<'_>,
) -> Result<lock::Resolved, OpError> {
    let pinned = if source.dependencies {
        let options = apt::Options { recommends: source.recommends, exclude: &source.exclude_packages };
        universe.resolve(&source.packages, &options)
    } else {
        source.packages.iter().map(|request| universe.find(request)).collect()
    };
    let pinned = pinned.map_err(|source| OpError::Resolve { component: name.to_owned(), source })?;
    Ok(lock::Resolved::apt(pinned.into_iter().map(locked_package).collect()))
}

fn locked_package(pinned: apt::Pinned) -> lock::Package {
    let apt::Pinned { name, version, architecture, repository, path, size, sha256, source, section: _ } = pinned;
    let source = Some(source).filter(|source| *source != name);
    lock::Package { name, architecture, version, repository, path, size, sha256, source, license: None }
}

/// Returns the manifest's package archives with the mirrors to try: the environment's, the host's, the manifest's.
///
/// # Errors
/// When a keyring cannot be read.
fn repositories(session: &Session, manifest: &Manifest) -> Result<BTreeMap<String, apt::Repository>, OpError> {
    let host = mirror::host_uris(Path::new("/etc/apt"));
    let mut repositories = BTreeMap::new();
    for (name, repository) in &manifest.apt {
        let bytes = fs::read(repository.keyring.path(), TEXT_LIMIT)?;
        let keyring = apt::Keyring::parse(&repository.keyring.text, &bytes)?;
        let environment = session.environment.apt_mirror.as_deref();
        let mirrors = mirror::order(environment, &host, &repository.path, &repository.mirrors);
        let (suites, components) = (repository.suites.clone(), repository.components.clone());
        repositories.insert(name.clone(), apt::Repository { name: name.clone(), mirrors, suites, components, keyring });
    }
    Ok(repositories)
}

fn stated_format(component: &Component) -> Option<manifest::ArchiveFormat> {
    match &component.source {
        // The program itself.
        Source::Cargo(_) => Some(manifest::ArchiveFormat::Raw),
        // The local file need not have the download's format.
        Source::Apt(_) | Source::Http(_) | Source::File(_) | Source::Kernel(_) | Source::TinyCore(_) => None,
    }
}

fn downloader(session: &Session, mode: LockMode) -> Downloader {
    let lookup = |name: &str| session.environment.variable(name).map(str::to_owned);
    let options =
        NetOptions { proxy: ProxyVariables::from_lookup(lookup), offline: mode.offline, ..NetOptions::default() };
    Downloader::new(session.cache.clone(), options, session.progress.clone())
}

/// The build epoch when nothing states one: 2026-01-01T00:00:00Z.
const DEFAULT_EPOCH: u64 = 1_767_225_600;

fn epoch(session: &Session) -> Result<u64, OpError> {
    match &session.environment.source_date_epoch {
        None => Ok(DEFAULT_EPOCH),
        Some(text) => text.parse::<u32>().map(u64::from).map_err(|_| OpError::Epoch { text: text.clone() }),
    }
}

/// Reads the keys that the node trusts; nothing when it takes no updates.
fn trust(manifest: &Manifest, watch: &mut Watch) -> Result<Option<Trust>, OpError> {
    let update = &manifest.update;
    update.keys.iter().chain(&update.cosign_keys).for_each(|path| watch.path(path.path()));
    if !update.is_enabled() {
        return Ok(None);
    }
    // Validation has read them; they may have changed since.
    let wrong = |path: &HostPath| {
        let path = path.path().to_owned();
        move |source: KeyFileError| OpError::UpdateKey { path, source }
    };
    let mut files = Vec::new();
    for path in &update.keys {
        let bytes = fs::read(path.path(), KEY_FILE_LIMIT)?;
        files.push(KeyFile::parse(&bytes).map_err(wrong(path))?);
    }
    let mut cosign = Vec::new();
    for path in &update.cosign_keys {
        let text = fs::read_to_string(path.path(), KEY_FILE_LIMIT)?;
        cosign_key(text.as_bytes()).map_err(wrong(path))?;
        cosign.push(text);
    }
    let keys = key_set(files, update.threshold).map_err(|source| wrong(&update.keys[0])(source.into()))?;
    Ok(Some(Trust { keys, cosign }))
}
