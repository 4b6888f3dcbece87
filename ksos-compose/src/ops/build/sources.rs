//! Pins kernels that are built here and Tiny Core bases.

use ksos_formats::Arch;

use super::resolve::Project;
use super::stamp::Watch;
use crate::cache::stat::StatCache;
use crate::effects::fs;
use crate::lock;
use crate::manifest::{HostPath, KernelSource, TinyCoreSource};
use crate::ops::{OpError, Session};
use crate::plan::{KernelBuild, KernelBuildBase, Resolved, TinyCoreFile, TinyCorePlace};
use crate::source::kernel::{self, Base, Fragment};
use crate::source::tinycore::{self, Kind, Local, Mirror, PinnedFile, Repository, TinyCoreError};

/// The largest configuration or fragment read, in bytes.
const CONFIG_LIMIT: u64 = 4 << 20;

/// Reads what a kernel is built with: fragments, and which compiler is installed.
///
/// # Errors
/// When a file cannot be read, or has a line that sets no option.
pub fn kernel(
    session: &Session,
    arch: Arch,
    name: &str,
    source: &KernelSource,
    watch: &mut Watch,
) -> Result<Resolved, OpError> {
    let KernelSource { from, base, base_file, base_component, config, compiler } = source;
    let mut read = |path: &HostPath| -> Result<Fragment, OpError> {
        watch.path(path.path());
        Ok(Fragment { name: path.text.clone(), text: fs::read_to_string(path.path(), CONFIG_LIMIT)? })
    };
    let base = match (base_file, base_component) {
        (Some(path), _) => KernelBuildBase::Known(Base::Text(read(path)?)),
        (None, Some(component)) => KernelBuildBase::Component(component.clone()),
        (None, None) => KernelBuildBase::Known(Base::Target(base.unwrap_or_default().target())),
    };
    let fragments = config.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    for fragment in &fragments {
        let failed = |source| OpError::KernelBuild { component: name.to_owned(), source: Box::new(source) };
        kernel::config::parse(fragment).map_err(failed)?;
    }
    let environment = kernel::environment(&session.environment.pairs());
    // Without a compiler the step may still be fresh; if it is not, it says what is missing.
    let toolchain = kernel::tools::toolchain(arch, *compiler, &environment);
    Ok(Resolved::Kernel(KernelBuild {
        component: name.to_owned(),
        from: from.clone(),
        base,
        fragments,
        compiler: *compiler,
        toolchain: toolchain.map(|toolchain| toolchain.identity).unwrap_or_default(),
    }))
}

/// Finds the files of a Tiny Core base in a directory.
///
/// # Errors
/// When one is not there or cannot be read.
pub fn local_tinycore(
    session: &Session,
    arch: Arch,
    name: &str,
    source: &TinyCoreSource,
    stats: &StatCache,
    watch: &mut Watch,
) -> Result<Resolved, OpError> {
    let Some(path) = &source.path else { return Err(OpError::LockKind { component: name.to_owned() }) };
    watch.below(path.path());
    let mut digest_of = |path: &std::path::Path| stats.digest(path);
    let repository = Local::new(path.path(), &mut digest_of);
    let found = resolve(session, arch, name, source, &repository)?;
    let files = found.into_iter().enumerate().map(|(index, found)| TinyCoreFile {
        pinned: found.pinned,
        kind: kind(index),
        place: TinyCorePlace::Path(found.place),
    });
    Ok(Resolved::TinyCore(files.collect()))
}

/// Returns a Tiny Core base as the lock has it.
pub fn locked_tinycore(source: &TinyCoreSource, files: &[PinnedFile]) -> Resolved {
    let releases = releases(source);
    let files = files.iter().enumerate().map(|(index, pinned)| TinyCoreFile {
        pinned: pinned.clone(),
        kind: kind(index),
        place: TinyCorePlace::Urls(tinycore::urls(&releases, &pinned.path)),
    });
    Resolved::TinyCore(files.collect())
}

/// The base comes first.
fn kind(index: usize) -> Kind {
    if index == 0 { Kind::Base } else { Kind::Extension }
}

fn releases(source: &TinyCoreSource) -> Vec<String> {
    source.url.iter().chain(&source.mirrors).cloned().collect()
}

fn resolve(
    session: &Session,
    arch: Arch,
    name: &str,
    source: &TinyCoreSource,
    repository: &dyn Repository,
) -> Result<Vec<tinycore::Found>, OpError> {
    let base = source.base(arch).ok_or(TinyCoreError::NoBase { arch });
    let found = base.and_then(|base| {
        let request = tinycore::Request {
            base,
            extensions: &source.extensions,
            kernel_release: source.kernel_release.as_deref(),
        };
        tinycore::resolve(repository, &session.cache, &request)
    });
    found.map_err(|source| OpError::TinyCore { component: name.to_owned(), source: Box::new(source) })
}

impl Project {
    /// Pins the files of a Tiny Core base on a mirror, and says that nobody vouched for them.
    pub(super) fn resolve_tinycore(
        &self,
        session: &Session,
        name: &str,
        source: &TinyCoreSource,
    ) -> Result<lock::Resolved, OpError> {
        let repository = Mirror { fetch: &self.fetch, component: name, urls: releases(source) };
        let found = resolve(session, self.arch(), name, source, &repository)?;
        let note = format!(
            "component {name}: {} files of {} have no signature; locked to what was downloaded now",
            found.len(),
            repository.title()
        );
        session.reporter.note(&note);
        Ok(lock::Resolved::TinyCore(found.into_iter().map(|found| found.pinned).collect()))
    }
}
