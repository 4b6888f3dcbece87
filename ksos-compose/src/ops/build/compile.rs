//! Steps that compile: programs and kernels that are built from source.

use super::execute::{Executor, StepOutputs};
use super::proof;
use super::resolve::cargo_build;
use crate::cache::Blob;
use crate::effects::clock;
use crate::effects::fs::{self, Context};
use crate::graph::{Outputs, Step};
use crate::kernel;
use crate::ops::OpError;
use crate::plan::{KernelBuildBase, KernelTask, Part, Program};
use crate::source;
use crate::source::apt;
use crate::source::cargo::{self, CargoError};

impl Executor<'_> {
    /// Fetches what building a program needs: crates, and Debian's cross toolchain where it is used.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn prefetch(&self, program: &Program) -> Result<(), OpError> {
        self.with_toolchain(program, cargo::fetch)
    }

    fn with_toolchain<T>(
        &self,
        program: &Program,
        work: impl FnOnce(&cargo::Build<'_>, &cargo::toolchain::Toolchain) -> Result<T, CargoError>,
    ) -> Result<T, OpError> {
        let environment = self.session.environment.pairs();
        let directory = self.cache.bucket("cargo");
        let build = cargo_build(program, self.plan.image.arch, &environment, &directory, self.project.offline);
        let result = cargo::toolchain::installed(&build).and_then(|installed| match installed {
            Some(toolchain) => work(&build, &toolchain),
            None => work(&build, &self.cross_toolchain(&build)?),
        });
        result.map_err(|source| OpError::Cargo { component: program.component.clone(), source: Box::new(source) })
    }

    pub(super) fn cargo(&self, program: &Program) -> Result<Blob, OpError> {
        let built = self.with_toolchain(program, |build, toolchain| cargo::build(build, toolchain, &|_| {}))?;
        let mut writer = self.cache.writer()?;
        std::io::copy(&mut fs::open(&built.path)?, &mut writer).context("copy", &built.path)?;
        let blob = writer.commit()?;
        if blob.digest != built.digest {
            return Err(OpError::Changed { path: built.path });
        }
        Ok(blob)
    }

    /// Builds a kernel from the source that a component has.
    pub(super) fn kernel_build(
        &self,
        step: &Step,
        task: &KernelTask,
        inputs: &StepOutputs,
    ) -> Result<Outputs, OpError> {
        let KernelTask { build, source, base } = task;
        let base = match (&build.base, base) {
            (KernelBuildBase::Known(base), _) => base.clone(),
            (KernelBuildBase::Component(_), part) => {
                let tree = self.part(step, part.as_ref().unwrap_or(&Part::default()), inputs)?;
                let (name, text) = kernel::KernelFiles::find(&tree)?.read_config_text(&tree)?;
                source::kernel::Base::Text(source::kernel::Fragment { name, text })
            }
        };
        // A kernel that is not the image's own may be anything.
        let required = match build.component == self.manifest.kernel.component {
            true => proof::requirements(self.manifest, &self.project.required_options)?,
            false => Vec::new(),
        };
        let environment = self.session.environment.pairs();
        let wanted = source::kernel::Build {
            source: &self.part(step, source, inputs)?,
            base: &base,
            fragments: &build.fragments,
            required: &required,
            arch: self.plan.image.arch,
            compiler: build.compiler,
            component: &build.component,
            cache: self.cache,
            environment: &environment,
            jobs: self.session.jobs,
        };
        let component = &build.component;
        let built = source::kernel::build(&wanted, &mut |_| {})
            .map_err(|source| OpError::KernelBuild { component: component.clone(), source: Box::new(source) })?;
        let note = |text: &str| self.session.reporter.note(&format!("component {component}: {text}"));
        built.notes.iter().for_each(|text| note(text));
        note(&format!("kernel {} built in {} s", built.release, built.seconds));
        self.store(&built.unpacked)
    }

    /// Returns Debian's cross toolchain, fetched on first use.
    fn cross_toolchain(&self, build: &cargo::Build<'_>) -> Result<cargo::toolchain::Toolchain, CargoError> {
        let host = apt::mirror::host_uris(std::path::Path::new("/etc/apt"));
        let repositories = cargo::debian::repositories(self.session.environment.apt_mirror.as_deref(), &host);
        let target = || cargo::toolchain::gnu_target(build.arch);
        let repositories =
            repositories.map_err(|source| CargoError::Packages { target: target(), source: Box::new(source) })?;
        let packages = cargo::debian::Packages {
            fetch: &self.project.fetch,
            repositories: &repositories,
            now: clock::now_seconds(),
        };
        cargo::debian::toolchain(build, &packages, false)
    }
}
