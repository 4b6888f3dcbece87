//! Runs the steps of a plan.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use ksos_formats::boot::{BootConfig, RootImage, SlotLabels};
use ksos_formats::layout;

use super::images::image_error;
use super::outputs::image_layout;
use super::resolve::Project;
use super::root::{self, CarriedImage, Pieces};
use super::{initramfs, proof};
use crate::artifact::{squashfs, verity};
use crate::cache::{Blob, Cache, gc};
use crate::effects::clock;
use crate::effects::fs::{self, Context};
use crate::effects::net::{Fetch, FetchError, Request};
use crate::graph::{self, Description, Execute, Input, Outputs, Report, Step};
use crate::kernel;
use crate::manifest::{self, Manifest, ModulePattern, PartitionRole};
use crate::oci;
use crate::oci::document::ImageBlob;
use crate::ops::{OpError, Session};
use crate::plan::{Download, ImageSource, Part, Plan, Resolved, ResolvedImage, Selection, Task, identity};
use crate::proof::{Finding, Place};
use crate::sbom;
use crate::source;
use crate::source::apt::{self, deb};
use crate::source::archive::select::{Install, SelectRules, select};
use crate::source::archive::{self, Limits, Owner, Policy};
use crate::source::oci::ImageError;
use crate::tree::index::TreeIndex;
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// What packages and archives may hold: no device nodes; the image's manifest decides about owners.
const POLICY: Policy = Policy { allow_devices: false, allow_setid: true, owner: Owner::Keep };

/// Executes the plan of one image.
pub struct Executor<'a> {
    pub(super) session: &'a Session,
    pub(super) project: &'a Project,
    pub(super) cache: &'a Cache,
    pub(super) manifest: &'a Manifest,
    pub(super) plan: &'a Plan,
    /// Compressed blocks of earlier builds are not used.
    fresh: bool,
}

/// Inputs of a running step: outputs of steps by step name.
pub(super) type StepOutputs = BTreeMap<String, Outputs>;

impl Execute for Executor<'_> {
    type Error = OpError;

    fn run(&self, step: &Step, _: &Description, inputs: &StepOutputs) -> Result<Outputs, OpError> {
        self.work(step, inputs).map_err(|error| self.session.mend(inputs, error))
    }

    fn already_there(&self, step: &Step) -> Option<Outputs> {
        let blob = match self.plan.tasks.get(&step.name)? {
            Task::Fetch(download) => self.cache.blob(&download.sha256, download.size)?,
            Task::FetchImageBlob { blob, .. } => self.cache.blob(&blob.digest, Some(blob.size))?,
            _ => return None,
        };
        Some([("blob".to_owned(), blob)].into())
    }

    fn has_elsewhere(&self) -> bool {
        self.project.is_shared()
    }

    fn elsewhere(&self, step: &Step, description: &Description) -> Option<Outputs> {
        self.known_elsewhere(step, description)
    }

    fn bring(&self, step: &Step, description: &Description, outputs: &Outputs) -> bool {
        self.bring_here(step, description, outputs)
    }

    fn made(&self, step: &Step, description: &Description, outputs: &Outputs) {
        self.write_elsewhere(step, description, outputs);
    }

    fn report(&self, step: &Step, report: &Report<'_>) {
        if let Report::Starts(reason) = report {
            self.session.reporter.step(&self.plan.image.name, &step.name, reason);
        }
    }
}

impl<'a> Executor<'a> {
    /// Returns an executor for `plan`, which was made from `project`.
    pub fn new(session: &'a Session, project: &'a Project, plan: &'a Plan, fresh: bool) -> Self {
        Executor { session, project, cache: &session.cache, manifest: project.manifest(), plan, fresh }
    }

    /// Does what a step is for.
    fn work(&self, step: &Step, inputs: &StepOutputs) -> Result<Outputs, OpError> {
        match &self.plan.tasks[&step.name] {
            Task::Fetch(download) => Ok([("blob".to_owned(), self.download(step, download)?)].into()),
            Task::UnpackPackage { name } => self.unpack_package(name, &self.whole(step, "blob", inputs)?),
            Task::Unpack { name, file_name, format, path } => {
                let path = match path {
                    Some(path) => self.take(path, &step.inputs["blob"])?,
                    None => self.whole(step, "blob", inputs)?.path,
                };
                match format {
                    None => self.unpack_package(name, &Blob { path, ..self.placeholder() }),
                    Some(format) => {
                        let unpacked =
                            archive::unpack_as(self.cache, &path, file_name, *format, &POLICY, &Limits::default())?;
                        self.store(&unpacked)
                    }
                }
            }
            Task::UnpackTinyCore { name, kind, path } => {
                let path = match path {
                    Some(path) => self.take(path, &step.inputs["blob"])?,
                    None => self.whole(step, "blob", inputs)?.path,
                };
                let unpacked = source::tinycore::unpack(self.cache, &path, name, *kind);
                let component = step.name.split(' ').nth(1).unwrap_or_default().to_owned();
                self.store(&unpacked.map_err(|source| OpError::TinyCore { component, source: Box::new(source) })?)
            }
            Task::KernelBuild(task) => self.kernel_build(step, task, inputs),
            Task::Cargo(program) => Ok([("binary".to_owned(), self.cargo(program)?)].into()),
            Task::KernelIndex(part) => {
                let tree = self.part(step, part, inputs)?;
                let index = kernel::index(&tree, &kernel::KernelFiles::find(&tree)?)?;
                Ok([("modules".to_owned(), graph::json_blob(self.cache, &index)?)].into())
            }
            Task::Modules(task) => self.modules(step, task, inputs),
            Task::FetchImageBlob { name, image, blob } => self.fetch_image_blob(name, image, blob),
            Task::TakeImage { name, image } => self.take_image(name, image),
            Task::ContainerImage { reference, image, part, .. } => {
                self.container_image(step, reference, image, part, inputs)
            }
            Task::Root { parts, kernel, runtime } => self.root(step, parts, kernel, runtime, inputs),
            Task::SystemImage { parts, command } => self.system_image(step, parts, command, inputs),
            Task::InitramfsBase { runtime } => {
                let runtime = self.part(step, runtime, inputs)?;
                let modules = self.index(&self.blob(step, "kernel modules", inputs))?;
                let tree = initramfs::base(&runtime, modules, self.plan.image.epoch)?;
                let (blob, unpacked) = initramfs::write(self.cache, &tree, self.plan.image.epoch, self.session.jobs)?;
                let unpacked = graph::json_blob(self.cache, &unpacked)?;
                Ok([("initramfs".to_owned(), blob), ("unpacked".to_owned(), unpacked)].into())
            }
            Task::Initramfs => self.initramfs(step, inputs),
        }
    }

    /// Returns the tree of a component once every step is done.
    ///
    /// # Errors
    /// When the cache lost a part of it.
    pub fn component_tree(&self, component: &str, outputs: &StepOutputs) -> Result<Tree, OpError> {
        let (part, inputs) = self.plan.parts.get(component).cloned().unwrap_or_default();
        for input in inputs.values() {
            if let Input::Output { step, .. } = input {
                self.here(step, &outputs[step])?;
            }
        }
        let step = Step {
            name: component.to_owned(),
            kind: "component",
            version: 1,
            pool: graph::Pool::Processor,
            parameters: BTreeMap::new(),
            inputs,
        };
        self.part(&step, &part, outputs)
    }

    fn download(&self, step: &Step, download: &Download) -> Result<Blob, OpError> {
        let fetch = &self.project.fetch;
        if let Some(package) = &download.package {
            let component = package.component.clone();
            let repository = &self.project.repositories[&package.pinned.repository];
            return apt::pool::fetch(fetch, &package.pinned, repository, &component, clock::now_seconds()).map_err(
                |source| OpError::Package {
                    component,
                    manifest: self.project.target.manifest.clone(),
                    source: Box::new(source),
                },
            );
        }
        let component = step.name.trim_start_matches("fetch ").to_owned();
        let request = Request {
            name: &format!("component {component}"),
            urls: &download.urls,
            digest: Some(download.sha256),
            size: download.size,
            limit: download.limit,
        };
        fetch.blob(&request).map_err(|source| OpError::Fetch { component, source })
    }

    /// Copies a local file into the cache, so that what is unpacked is what was hashed.
    fn take(&self, path: &Path, input: &Input) -> Result<PathBuf, OpError> {
        let mut writer = self.cache.writer()?;
        std::io::copy(&mut fs::open(path)?, &mut writer).context("copy", path)?;
        let blob = writer.commit()?;
        match input {
            Input::Digest(digest) if *digest == blob.digest => Ok(blob.path),
            _ => Err(OpError::Changed { path: path.to_owned() }),
        }
    }

    fn placeholder(&self) -> Blob {
        Blob { digest: ksos_formats::Digest([0; 32]), size: 0, path: std::path::PathBuf::new() }
    }

    /// Returns the blob that an input of `step` names.
    fn blob(&self, step: &Step, name: &str, inputs: &StepOutputs) -> Blob {
        match &step.inputs[name] {
            Input::Output { step, output } => inputs[step][output].clone(),
            Input::Digest(digest) => Blob { digest: *digest, size: 0, path: self.cache.blob_path(digest) },
        }
    }

    /// Returns the blob that an input of `step` names, after a look at all of it: no archive format notices all damage.
    fn whole(&self, step: &Step, name: &str, inputs: &StepOutputs) -> Result<Blob, OpError> {
        let blob = self.blob(step, name, inputs);
        if gc::is_whole(&blob.path) { Ok(blob) } else { Err(OpError::IndexLost { digest: blob.digest }) }
    }

    fn index(&self, blob: &Blob) -> Result<Tree, OpError> {
        archive::load(self.cache, &blob.digest).ok_or(OpError::IndexLost { digest: blob.digest })
    }

    pub(super) fn store(&self, unpacked: &archive::Unpacked) -> Result<Outputs, OpError> {
        let index = unpacked.store(self.cache)?;
        Ok([("index".to_owned(), index), ("pack".to_owned(), unpacked.pack.blob.clone())].into())
    }

    fn unpack_package(&self, name: &str, blob: &Blob) -> Result<Outputs, OpError> {
        let file = std::io::BufReader::with_capacity(1 << 17, fs::open(&blob.path)?);
        let package = deb::open(file).map_err(|source| OpError::Deb { name: name.to_owned(), source })?;
        let mut data = package.data;
        let unpacked = archive::unpack_tar(self.cache, &mut data, name, &POLICY, &Limits::default())?;
        self.store(&unpacked)
    }

    /// Returns the tree of a component: its pieces merged, then what the manifest selects.
    pub(super) fn part(&self, step: &Step, part: &Part, inputs: &StepOutputs) -> Result<Tree, OpError> {
        let Part { name, inputs: pieces, selection, program } = part;
        let epoch = self.plan.image.epoch;
        if let Some(place) = program {
            let blob = self.blob(step, name, inputs);
            let content = Content::host_file(blob.path, blob.digest, blob.size);
            let mut tree = Tree::new(epoch as i64);
            let entry = Entry { meta: Meta::root(0o755, epoch as i64), node: Node::File(content) };
            crate::assemble::put(&mut tree, place, entry, name)?;
            return Ok(tree);
        }
        let mut merged = Tree::new(epoch as i64);
        for piece in pieces {
            let local = self.project.components.get(name).map(|component| &component.content);
            let tree = match (&step.inputs[piece], local) {
                (Input::Digest(_), Some(Resolved::Directory(local))) => local.tree.clone(),
                _ => self.index(&self.blob(step, piece, inputs))?,
            };
            archive::merge::merge(&mut merged, tree, piece).map_err(root::RootError::Merge)?;
        }
        if matches!(self.project.components.get(name), Some(component) if matches!(component.content, Resolved::TinyCore(_)))
        {
            source::tinycore::link_libraries(&mut merged).map_err(|error| {
                let origin = name.clone();
                root::RootError::Merge(archive::merge::MergeError::Tree { origin, error })
            })?;
        }
        let rules = rules(selection);
        select(merged, &rules).map_err(|source| OpError::Select { component: name.clone(), source })
    }

    fn modules(&self, step: &Step, task: &crate::plan::ModulesTask, inputs: &StepOutputs) -> Result<Outputs, OpError> {
        let tree = self.part(step, &task.kernel, inputs)?;
        let index: kernel::ModuleIndex = self.json(&self.blob(step, "module index", inputs))?;
        let selected = kernel::select(&index, &task.patterns)?;
        let files = kernel::KernelFiles::find(&tree)?;
        let installed = kernel::install(&tree, &files, &index, &selected, self.cache, self.plan.image.epoch as i64)?;
        let stored = TreeIndex::from_tree(&installed.tree, installed.pack.digest);
        let index = graph::json_blob(self.cache, &stored)?;
        Ok([("index".to_owned(), index), ("pack".to_owned(), installed.pack)].into())
    }

    /// Reads the JSON blob that a step gave.
    ///
    /// # Errors
    /// When the cache lost it.
    pub fn json<T: serde::de::DeserializeOwned>(&self, blob: &Blob) -> Result<T, OpError> {
        let bytes = blob.read(1 << 30).ok();
        let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        value.ok_or(OpError::IndexLost { digest: blob.digest })
    }

    fn container_image(
        &self,
        step: &Step,
        reference: &str,
        image: &manifest::BuiltImage,
        part: &Part,
        inputs: &StepOutputs,
    ) -> Result<Outputs, OpError> {
        let tree = self.part(step, part, inputs)?;
        let rules =
            SelectRules { include: image.files.iter().map(ToString::to_string).collect(), ..Default::default() };
        let tree = select(tree, &rules).map_err(|source| OpError::Select { component: part.name.clone(), source })?;
        let spec = oci::ImageSpec {
            name: reference.to_owned(),
            arch: self.plan.image.arch,
            entrypoint: image.entrypoint.clone(),
            cmd: image.command.clone(),
            env: image.environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            working_dir: String::new(),
            created: self.plan.image.epoch as i64,
            // The root file system is compressed as a whole.
            compression: oci::LayerCompression::None,
            jobs: self.session.jobs,
        };
        Ok(image_outputs(oci::image(self.cache, &tree, &spec)?))
    }

    /// Makes a container image of the root file system.
    fn system_image(
        &self,
        step: &Step,
        parts: &[Part],
        command: &[String],
        inputs: &StepOutputs,
    ) -> Result<Outputs, OpError> {
        let index = self.json(&self.blob(step, "module index", inputs))?;
        let root = self.assembled(step, parts, &index, inputs)?;
        let image = &self.plan.image;
        let spec = oci::ImageSpec {
            name: image_layout::reference(image),
            arch: image.arch,
            entrypoint: Vec::new(),
            cmd: command.to_vec(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            working_dir: String::new(),
            created: image.epoch as i64,
            // Every engine and registry takes gzip.
            compression: oci::LayerCompression::Gzip,
            jobs: self.session.jobs,
        };
        Ok(image_outputs(oci::image(self.cache, &root.tree, &spec)?))
    }

    fn fetch_image_blob(&self, name: &str, image: &ResolvedImage, blob: &ImageBlob) -> Result<Outputs, OpError> {
        let plain_http = match &image.source {
            ImageSource::Registry { plain_http } => *plain_http,
            ImageSource::Local { .. } => None,
        };
        let pull = self.project.pull(name, &image.reference, plain_http);
        let fetched = pull.blob(blob, blob.digest == image.pinned.manifest.digest, blob.size);
        let failed = |source: FetchError| image_error(name, source.into());
        Ok([("blob".to_owned(), fetched.map_err(failed)?)].into())
    }

    /// Takes an image from an archive or a layout, which must still have the image that the lock has.
    fn take_image(&self, name: &str, image: &ResolvedImage) -> Result<Outputs, OpError> {
        let ResolvedImage { pinned, reference, source } = image;
        let ImageSource::Local { path, stated, .. } = source else { return Ok(Outputs::new()) };
        let failed = |source| image_error(name, source);
        let local = source::oci::open(path).map_err(failed)?;
        let wanted = source::oci::Wanted { name, reference, digest: *stated, arch: self.plan.image.arch };
        let found = source::oci::resolve(self.cache, local.as_ref(), &wanted).map_err(failed)?;
        if found.manifest.digest != pinned.manifest.digest {
            let (expected, actual) = (pinned.manifest.digest, found.manifest.digest);
            return Err(failed(ImageError::Changed { path: path.clone(), expected, actual }));
        }
        let blobs = local.take(self.cache, pinned).map_err(failed)?;
        Ok(blobs.into_iter().map(|blob| (blob.digest.hex(), blob)).collect())
    }

    /// Merges the root file system.
    fn assembled(
        &self,
        step: &Step,
        parts: &[Part],
        index: &kernel::ModuleIndex,
        inputs: &StepOutputs,
    ) -> Result<root::Root, OpError> {
        let mut components = Vec::new();
        for part in parts {
            components.push((part.name.clone(), self.part(step, part, inputs)?));
        }
        for (name, tree) in &components {
            self.tell_start_scripts(name, tree);
        }
        let container_images = self.plan.images.iter().map(|image| {
            let blobs: Vec<Blob> = image.inputs.keys().map(|name| self.blob(step, name, inputs)).collect();
            CarriedImage {
                names: image.names.clone(),
                manifest: self.blob(step, &image.manifest, inputs),
                media_type: image.media_type.clone(),
                blobs,
            }
        });
        let modules = self.index(&self.blob(step, "kernel modules", inputs))?;
        let overlays = self.manifest.overlays.iter().filter_map(|(name, overlay)| {
            let local = self.project.overlays.get(name)?;
            Some((name.clone(), overlay.to.relative().to_owned(), local.tree.clone()))
        });
        let pieces = Pieces {
            manifest: self.manifest,
            image: &self.plan.image,
            components,
            modules,
            load: names(&self.manifest.kernel.load, index),
            container_images: container_images.collect(),
            trust: self.project.trust.as_ref(),
            packages: &self.plan.packages,
            overlays: overlays.collect(),
        };
        Ok(root::assemble(pieces)?)
    }

    fn root(
        &self,
        step: &Step,
        parts: &[Part],
        kernel: &Part,
        runtime: &Part,
        inputs: &StepOutputs,
    ) -> Result<Outputs, OpError> {
        let index: kernel::ModuleIndex = self.json(&self.blob(step, "module index", inputs))?;
        let root = self.assembled(step, parts, &index, inputs)?;
        let initramfs = initramfs::base(
            &self.part(step, runtime, inputs)?,
            self.index(&self.blob(step, "initramfs modules", inputs))?,
            self.plan.image.epoch,
        )?;
        let notes = proof::check(
            &proof::Subject {
                manifest: self.manifest,
                plan: self.plan,
                root: &root.tree,
                initramfs: &initramfs,
                kernel: &self.part(step, kernel, inputs)?,
                modules: &index,
                required_options: &self.project.required_options,
                denied_modules: kernel::denied_modules(),
                overlays: &self.project.overlays,
                preloaded: &self.project.preloaded(),
            },
            self.cache,
        )?;
        self.tell(&root.conflicts, &notes);
        let mut outputs = self.write_root(&root.tree)?;
        outputs.insert("files".to_owned(), self.root_files(&root, parts, inputs)?);
        Ok(outputs)
    }

    /// Lists the files of the root file system by what made them.
    fn root_files(&self, root: &root::Root, parts: &[Part], inputs: &StepOutputs) -> Result<Blob, OpError> {
        let components: Vec<String> = parts.iter().map(|part| part.name.clone()).collect();
        let packs = super::supply::packs(self.plan, inputs);
        let listed = sbom::files::list(self.cache, &root.tree, &root.origins, &components, &packs, self.session.jobs);
        let mut listed = listed.context("read the contents of", Path::new("/"))?;
        listed.licences = super::supply::licences(self.project, self.plan, self.cache, inputs)?;
        Ok(graph::json_blob(self.cache, &listed)?)
    }

    /// Says which scripts of Tiny Core extensions are in the image and not run.
    fn tell_start_scripts(&self, component: &str, tree: &Tree) {
        let scripts = source::tinycore::start_scripts(tree);
        if !scripts.is_empty() {
            let list = scripts.join(", ");
            let note = format!("component {component}: nobody runs what is in /usr/local/tce.installed: {list}");
            self.session.reporter.note(&note);
        }
    }

    /// Says which component's file replaced another's, and what the proof found worth knowing. What overlays replace is
    /// meant.
    fn tell(&self, conflicts: &[archive::merge::Conflict], notes: &[Finding]) {
        for archive::merge::Conflict { path, loser, winner } in conflicts {
            if !winner.starts_with("overlay ") {
                self.session.reporter.note(&format!("/{path}: {winner} replaces the file of {loser}"));
            }
        }
        for finding in notes.iter().filter(|finding| finding.place == Place::Root) {
            self.session.reporter.note(&finding.to_string());
        }
    }

    fn write_root(&self, tree: &Tree) -> Result<Outputs, OpError> {
        let settings = &self.manifest.root;
        let level = settings.level();
        let blocks = squashfs::DirectoryBlockCache::in_cache(self.cache);
        let cache: &dyn squashfs::BlockCache = if self.fresh { &squashfs::NoBlockCache } else { &blocks };
        let options = squashfs::Options {
            compression: match settings.compression {
                manifest::Compression::Zstd => squashfs::Compression::Zstd(level as u8),
                manifest::Compression::Gzip => squashfs::Compression::Gzip(level as u8),
                manifest::Compression::Xz => squashfs::Compression::Xz,
                manifest::Compression::None => squashfs::Compression::None,
            },
            block_size: settings.block_size.bytes() as u32,
            epoch: self.plan.image.epoch as u32,
            workers: self.session.jobs,
            cache,
            progress: None,
        };
        let mut temporary = self.cache.temporary()?;
        let summary = squashfs::write(tree, temporary.as_file_mut(), &options)?;
        let salt = identity::salt(&self.plan.image);
        let appended = verity::append(temporary.as_file_mut(), summary.size, salt, self.session.jobs)?;
        let blob = self.cache.adopt(temporary)?;
        let root = RootImage {
            file: layout::SLOT_ROOT.to_owned(),
            size: blob.size,
            sha256: blob.digest,
            verity: appended.verity,
        };
        Ok([("image".to_owned(), blob), ("root".to_owned(), graph::json_blob(self.cache, &root)?)].into())
    }

    fn initramfs(&self, step: &Step, inputs: &StepOutputs) -> Result<Outputs, OpError> {
        let index: kernel::ModuleIndex = self.json(&self.blob(step, "kernel", inputs))?;
        let label = |role| self.plan.disk.partition(role).map(|(_, slot)| slot.label.clone()).unwrap_or_default();
        let config = BootConfig {
            format: ksos_formats::boot::FORMAT,
            image: self.plan.image.clone(),
            modules: names(&self.manifest.kernel.initramfs_modules, &index),
            kernel_release: index.release,
            root_mode: self.manifest.root.mode,
            root: self.json(&self.blob(step, "root", inputs))?,
            slots: SlotLabels { a: label(PartitionRole::SlotA), b: label(PartitionRole::SlotB) },
        };
        let base = self.blob(step, "base", inputs);
        let mut writer = self.cache.writer()?;
        let file = Content::host_file(base.path.clone(), base.digest, base.size);
        let mut file = file.open().context("open", &base.path)?;
        std::io::copy(&mut file, &mut writer).context("copy", &base.path)?;
        let segment = initramfs::boot_config(&config, self.plan.image.epoch)?;
        writer.write_all(&segment).context("write", &base.path)?;
        Ok([("initramfs".to_owned(), writer.commit()?)].into())
    }
}

fn image_outputs(image: oci::Image) -> Outputs {
    let oci::Image { manifest, config, layer, .. } = image;
    let outputs = [("manifest", manifest), ("config", config), ("layer", layer.blob)];
    outputs.map(|(name, blob)| (name.to_owned(), blob)).into()
}

/// Names of modules to load: patterns expanded, without those that are optional and not there, or built in.
pub fn names(patterns: &[ModulePattern], index: &kernel::ModuleIndex) -> Vec<String> {
    let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    let selection = kernel::select(index, &patterns).unwrap_or_default();
    selection
        .requested
        .into_iter()
        .flat_map(|(_, names)| names)
        .filter(|name| index.modules.contains_key(name))
        .collect()
}

fn rules(selection: &Selection) -> SelectRules {
    let Selection { strip, prefix, include, exclude, install } = selection.clone();
    let install = install.into_iter().map(|(from, to, mode)| Install { from, to, mode });
    SelectRules { strip: strip as usize, include, exclude, install: install.collect(), prefix }
}
