//! The steps of an image: fetch and unpack what is pinned, index the kernel's modules and select them, build programs
//! and container images, write the root file system, write the initramfs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ksos_formats::boot::ImageId;
use serde::Serialize;

use super::resolved::{
    Download, ImageSource, KernelBuild, KernelBuildBase, Package, Program, Resolved, ResolvedImage, TinyCoreFile,
    TinyCorePlace,
};
use super::{Inputs, digest_of};
use crate::graph::{Input, Pool, Step};
use crate::manifest::{BuiltImage, Component, Destination, ImageContent, Install, OutputFormat, Source, Unpack};
use crate::oci::document::ImageBlob;
use crate::source::archive::Format;
use crate::source::tinycore;

/// Name of the step that makes the container image of the whole system.
pub const SYSTEM_IMAGE: &str = "system-image";

/// What the initramfs of a system on an ISO image needs besides: the volume, and what CD drives and sticks hang on.
const MEDIA_MODULES: [&str; 11] = [
    "isofs",
    "sr_mod?",
    "cdrom?",
    "sd_mod?",
    "ahci?",
    "ata_piix?",
    "usb_storage?",
    "uas?",
    "xhci_pci?",
    "ehci_pci?",
    "virtio_scsi?",
];

/// What a step does, beyond what its key needs to know.
#[derive(Debug, Clone)]
pub enum Task {
    /// Downloads a blob: output `blob`.
    Fetch(Download),
    /// Unpacks a Debian package: outputs `index`, `pack`.
    UnpackPackage {
        /// Name for messages.
        name: String,
    },
    /// Unpacks an archive: outputs `index`, `pack`.
    Unpack {
        /// Name for messages.
        name: String,
        /// File name.
        file_name: String,
        /// Format; `None` for a `.deb`.
        format: Option<Format>,
        /// The file on this machine, when it is not the output of a fetch.
        path: Option<PathBuf>,
    },
    /// Unpacks a base or an extension of Tiny Core Linux: outputs `index`, `pack`.
    UnpackTinyCore {
        /// File name.
        name: String,
        /// Which of the two.
        kind: tinycore::Kind,
        /// The file on this machine, when it is not the output of a fetch.
        path: Option<PathBuf>,
    },
    /// Builds a kernel: outputs `index`, `pack`.
    KernelBuild(KernelTask),
    /// Builds a program: output `binary`.
    Cargo(Program),
    /// Reads the modules of the kernel: output `modules`.
    KernelIndex(Part),
    /// Selects and decompresses kernel modules: outputs `index`, `pack`, `names`.
    Modules(ModulesTask),
    /// Fetches a blob of a container image: output `blob`.
    FetchImageBlob {
        /// Name of the image in the manifest.
        name: String,
        /// The image.
        image: ResolvedImage,
        /// The blob.
        blob: ImageBlob,
    },
    /// Takes the blobs of a container image from an archive or a layout: outputs by digest.
    TakeImage {
        /// Name of the image in the manifest.
        name: String,
        /// The image.
        image: ResolvedImage,
    },
    /// Makes a container image: outputs `manifest`, `config`, `layer`.
    ContainerImage {
        /// Name in the manifest.
        name: String,
        /// Reference it is imported as.
        reference: String,
        /// Settings.
        image: BuiltImage,
        /// The component it is made from.
        part: Part,
    },
    /// Merges, proves and writes the root file system: outputs `image`, `root`, `files`.
    Root {
        /// Components in merge order.
        parts: Vec<Part>,
        /// The kernel's component.
        kernel: Part,
        /// The component with the runtime, which is proved in the initramfs, too.
        runtime: Part,
    },
    /// Makes a container image of the root file system: outputs `manifest`, `config`, `layer`.
    SystemImage {
        /// Components in merge order.
        parts: Vec<Part>,
        /// What a container of it runs when nothing else is asked for.
        command: Vec<String>,
    },
    /// Writes the initramfs without its boot configuration: output `initramfs`.
    InitramfsBase {
        /// The runtime.
        runtime: Part,
    },
    /// Adds the boot configuration: output `initramfs`.
    Initramfs,
}

/// A kernel to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelTask {
    /// Configuration and compiler.
    pub build: KernelBuild,
    /// The component with the source.
    pub source: Part,
    /// The component whose configuration the fragments are laid over.
    pub base: Option<Part>,
}

/// Patterns of modules to select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModulesTask {
    /// Name of the patterns in the manifest, for messages.
    pub what: String,
    /// Patterns as in the manifest.
    pub patterns: Vec<String>,
    /// The kernel's component.
    #[serde(skip)]
    pub kernel: Part,
}

/// A component's tree: where its pieces are and what is taken of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Part {
    /// Component name.
    pub name: String,
    /// Names of the inputs whose trees make it up, in merge order.
    pub inputs: Vec<String>,
    /// What is taken.
    pub selection: Selection,
    /// The component is one program, and this is its place.
    pub program: Option<String>,
}

/// What is taken of a component's tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Selection {
    /// Leading path components dropped.
    pub strip: u32,
    /// Directory that the tree is put in.
    pub prefix: String,
    /// Globs to keep.
    pub include: Vec<String>,
    /// Globs to leave out.
    pub exclude: Vec<String>,
    /// Files to take, with place and mode.
    pub install: Vec<(String, String, Option<u32>)>,
}

/// The blobs of a container image among the inputs of the root step.
#[derive(Debug, Clone)]
pub struct ImageBlobs {
    /// Names that it is looked up by.
    pub names: Vec<String>,
    /// Name of the input with its manifest.
    pub manifest: String,
    /// Media type of its manifest.
    pub media_type: String,
    /// Names of the inputs with all of its blobs.
    pub inputs: BTreeMap<String, Input>,
}

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    steps: Vec<Step>,
    tasks: BTreeMap<String, Task>,
    images: Vec<ImageBlobs>,
}

/// The steps of a plan.
pub struct Steps {
    /// In order.
    pub steps: Vec<Step>,
    /// What each does.
    pub tasks: BTreeMap<String, Task>,
    /// Every component's pieces.
    pub parts: BTreeMap<String, (Part, StepInputs)>,
    /// Blobs of every container image.
    pub images: Vec<ImageBlobs>,
}

/// Returns the steps, and what each does.
pub fn steps(inputs: &Inputs<'_>, image: &ImageId) -> Steps {
    let mut builder = Builder { inputs, steps: Vec::new(), tasks: BTreeMap::new(), images: Vec::new() };
    let parts = builder.all(image);
    Steps { steps: builder.steps, tasks: builder.tasks, parts, images: builder.images }
}

/// Inputs by name.
type StepInputs = BTreeMap<String, Input>;

impl Builder<'_> {
    fn all(&mut self, image: &ImageId) -> BTreeMap<String, (Part, StepInputs)> {
        let mut parts: BTreeMap<String, (Part, StepInputs)> = BTreeMap::new();
        // A kernel that is built comes after the component with its source.
        let built = |component: &Component| matches!(component.source, Source::Kernel(_));
        let mut components: Vec<(&String, &Component)> = self.inputs.manifest.components.iter().collect();
        components.sort_by_key(|(_, component)| built(component));
        for (name, component) in components {
            let part = self.component(name, component, &parts);
            parts.insert(name.clone(), part);
        }
        let (kernel, kernel_inputs) = parts.get(&self.inputs.manifest.kernel.component).cloned().unwrap_or_default();
        let kernel_step = self.kernel_index(&kernel, &kernel_inputs);
        let patterns = |list: &[crate::manifest::ModulePattern]| list.iter().map(ToString::to_string).collect();
        let settings = &self.inputs.manifest.kernel;
        let root_patterns: Vec<String> = patterns(&settings.modules);
        let mut initramfs_patterns: Vec<String> = patterns(&settings.initramfs_modules);
        initramfs_patterns.extend(patterns(&settings.initramfs_drivers) as Vec<String>);
        let manifest = self.inputs.manifest;
        if manifest.outputs.wanted(manifest.update.is_enabled()).contains(&OutputFormat::Iso) {
            let missing = |pattern: &String| !initramfs_patterns.contains(pattern);
            let media: Vec<String> = MEDIA_MODULES.map(str::to_owned).into_iter().filter(missing).collect();
            initramfs_patterns.extend(media);
        }
        self.modules("modules", root_patterns, &kernel, &kernel_inputs, &kernel_step);
        self.modules("initramfs-modules", initramfs_patterns, &kernel, &kernel_inputs, &kernel_step);
        self.container_images(&parts);
        let runtime = self.runtime_part(&parts);
        self.root(image, &parts, (&kernel, &kernel_inputs), &runtime);
        self.initramfs(image, runtime);
        parts
    }

    fn push(&mut self, name: &str, kind: &'static str, version: u32, pool: Pool, task: Task) -> StepDraft {
        self.tasks.insert(name.to_owned(), task);
        StepDraft {
            step: Step {
                name: name.to_owned(),
                kind,
                version,
                pool,
                parameters: BTreeMap::new(),
                inputs: BTreeMap::new(),
            },
        }
    }

    fn add(&mut self, draft: StepDraft) -> String {
        let name = draft.step.name.clone();
        // A package that two components share is fetched and unpacked once.
        if !self.steps.iter().any(|step| step.name == name) {
            self.steps.push(draft.step);
        }
        name
    }

    fn component(
        &mut self,
        name: &str,
        component: &Component,
        parts: &BTreeMap<String, (Part, StepInputs)>,
    ) -> (Part, StepInputs) {
        let Component { source, include, exclude, into: _, enabled: _ } = component;
        let resolved = self.inputs.components.get(name);
        let mut program = None;
        let mut selection = match source {
            Source::Http(http) => unpack_selection(&http.unpack, |text| http.expand(text, self.inputs.arch)),
            Source::File(file) => unpack_selection(&file.unpack, str::to_owned),
            Source::Apt(_) | Source::Kernel(_) | Source::TinyCore(_) => Selection::default(),
            Source::Cargo(cargo) => {
                let place = cargo.install_to.relative().to_owned();
                match resolved.map(|resolved| &resolved.content) {
                    // `--component NAME=FILE`: the file is the program.
                    Some(Resolved::File { name, .. }) => {
                        Selection { install: vec![(name.clone(), place, Some(0o755))], ..Selection::default() }
                    }
                    // `--component NAME=DIRECTORY`: it has the program at its place.
                    Some(Resolved::Directory(_)) => Selection::default(),
                    _ => {
                        program = Some(place);
                        Selection::default()
                    }
                }
            }
        };
        selection.include = include.iter().map(ToString::to_string).collect();
        selection.exclude = exclude.iter().map(ToString::to_string).collect();
        let mut part = Part { name: name.to_owned(), inputs: Vec::new(), selection, program };
        let mut inputs = StepInputs::new();
        let Some(resolved) = resolved else { return (part, inputs) };
        for (input, from) in self.content(name, &resolved.content, parts) {
            part.inputs.push(input.clone());
            inputs.insert(input, from);
        }
        (part, inputs)
    }

    /// Adds the steps that make a component's trees; returns an input name and its source for each tree.
    fn content(
        &mut self,
        name: &str,
        content: &Resolved,
        parts: &BTreeMap<String, (Part, StepInputs)>,
    ) -> Vec<(String, Input)> {
        match content {
            Resolved::Kernel(build) => vec![self.kernel_build(name, build, parts)],
            Resolved::TinyCore(files) => files.iter().map(|file| self.tinycore(name, file)).collect(),
            Resolved::Packages(packages) => packages.iter().map(|package| self.package(package)).collect(),
            Resolved::Download(download) => {
                let fetch =
                    self.push(&format!("fetch {name}"), "fetch", 1, Pool::Network, Task::Fetch(download.clone()));
                let fetch = self.add(fetch.parameter("sha256", &download.sha256));
                let blob = Input::Output { step: fetch, output: "blob".to_owned() };
                vec![self.unpack(name, &download.name, download.format, None, blob)]
            }
            Resolved::File { path, name: file_name, digest, format, .. } => {
                let path = Some(path.clone());
                vec![self.unpack(name, file_name, *format, path, Input::Digest(*digest))]
            }
            Resolved::Directory(tree) => vec![(name.to_owned(), Input::Digest(tree.digest))],
            Resolved::Program(program) => {
                let task = Task::Cargo(program.clone());
                let step = self.push(&format!("cargo {name}"), "cargo", 1, Pool::Processor, task);
                let step = step
                    .parameter("package", &program.package)
                    .parameter("binary", &program.binary)
                    .parameter("profile", &program.profile)
                    .parameter("toolchain", &program.toolchain)
                    .parameter("arch", &self.inputs.arch)
                    .input("sources", Input::Digest(program.sources));
                vec![(name.to_owned(), Input::Output { step: self.add(step), output: "binary".to_owned() })]
            }
        }
    }

    fn tinycore(&mut self, component: &str, file: &TinyCoreFile) -> (String, Input) {
        let TinyCoreFile { pinned, kind, place } = file;
        let tinycore::PinnedFile { name, path: _, size, sha256, version: _, license: _ } = pinned;
        let title = format!("{component} {name}");
        let (path, blob) = match place {
            TinyCorePlace::Path(path) => (Some(path.clone()), Input::Digest(*sha256)),
            TinyCorePlace::Urls(urls) => {
                let download = Download {
                    urls: urls.clone(),
                    name: name.clone(),
                    size: Some(*size),
                    sha256: *sha256,
                    limit: *size,
                    format: None,
                    package: None,
                };
                let fetch = self.push(&format!("fetch {title}"), "fetch", 1, Pool::Network, Task::Fetch(download));
                let step = self.add(fetch.parameter("sha256", sha256));
                (None, Input::Output { step, output: "blob".to_owned() })
            }
        };
        let task = Task::UnpackTinyCore { name: name.clone(), kind: *kind, path };
        let step = self.push(&format!("unpack {title}"), "unpack-tinycore", 1, Pool::Processor, task);
        let step = self.add(step.parameter("kind", kind).input("blob", blob));
        (title, Input::Output { step, output: "index".to_owned() })
    }

    fn kernel_build(
        &mut self,
        name: &str,
        build: &KernelBuild,
        parts: &BTreeMap<String, (Part, StepInputs)>,
    ) -> (String, Input) {
        let KernelBuild { component: _, from, base, fragments, compiler, toolchain } = build;
        let (source, mut inputs) = parts.get(from).cloned().unwrap_or_default();
        let (base_config, base) = match base {
            KernelBuildBase::Known(base) => (Some(base), None),
            KernelBuildBase::Component(component) => {
                let (part, more) = parts.get(component).cloned().unwrap_or_default();
                inputs.extend(more);
                (None, Some(part))
            }
        };
        // What is required only checks, and the proof checks it again: it is no part of the key.
        let task = KernelTask { build: build.clone(), source: source.clone(), base: base.clone() };
        let step = self.push(&format!("kernel {name}"), "kernel-build", 1, Pool::Processor, Task::KernelBuild(task));
        let step = step
            .parameter("source", &source)
            .parameter("base", &base_config)
            .parameter("base-component", &base)
            .parameter("fragments", &digest_of(fragments))
            .parameter("compiler", compiler)
            .parameter("toolchain", toolchain)
            .parameter("arch", &self.inputs.arch)
            .inputs(&inputs);
        (name.to_owned(), Input::Output { step: self.add(step), output: "index".to_owned() })
    }

    fn package(&mut self, package: &Package) -> (String, Input) {
        let Package { pinned, component: _, urls } = package;
        let sha256 = &pinned.sha256;
        let mut title = format!("{}_{}_{}", pinned.name, pinned.version, pinned.architecture);
        let twin = |task: &Task| matches!(task, Task::Fetch(download) if download.sha256 != *sha256);
        if self.tasks.get(&format!("fetch {title}")).is_some_and(twin) {
            // Another archive's package of the same name and version.
            title = format!("{title}_{}", &sha256.hex()[..8]);
        }
        let download = Download {
            urls: urls.clone(),
            name: format!("{title}.deb"),
            size: Some(pinned.size),
            sha256: *sha256,
            limit: pinned.size,
            format: None,
            package: Some(Box::new(package.clone())),
        };
        let fetch = self.push(&format!("fetch {title}"), "fetch", 1, Pool::Network, Task::Fetch(download));
        let fetch = self.add(fetch.parameter("sha256", sha256));
        let task = Task::UnpackPackage { name: title.clone() };
        let unpack = self.push(&format!("unpack {title}"), "unpack-package", 1, Pool::Processor, task);
        let unpack = self.add(unpack.input("blob", Input::Output { step: fetch, output: "blob".to_owned() }));
        (title, Input::Output { step: unpack, output: "index".to_owned() })
    }

    fn unpack(
        &mut self,
        name: &str,
        file_name: &str,
        format: Option<Format>,
        path: Option<PathBuf>,
        blob: Input,
    ) -> (String, Input) {
        let task = Task::Unpack { name: name.to_owned(), file_name: file_name.to_owned(), format, path };
        let step = self.push(&format!("unpack {name}"), "unpack", 1, Pool::Processor, task);
        let step = step.parameter("format", &format!("{format:?}")).parameter("file-name", &file_name);
        let step = self.add(step.input("blob", blob));
        (name.to_owned(), Input::Output { step, output: "index".to_owned() })
    }

    fn kernel_index(&mut self, kernel: &Part, inputs: &StepInputs) -> String {
        let step = self.push("kernel", "kernel-index", 1, Pool::Processor, Task::KernelIndex(kernel.clone()));
        self.add(step.parameter("kernel", kernel).inputs(inputs))
    }

    fn modules(&mut self, name: &str, patterns: Vec<String>, kernel: &Part, inputs: &StepInputs, index: &str) {
        let task = ModulesTask { what: format!("kernel.{name}"), patterns, kernel: kernel.clone() };
        let step = self.push(name, "modules", 1, Pool::Processor, Task::Modules(task.clone()));
        let index = Input::Output { step: index.to_owned(), output: "modules".to_owned() };
        self.add(
            step.parameter("patterns", &task.patterns)
                .parameter("epoch", &self.inputs.epoch)
                .parameter("kernel", kernel)
                .inputs(inputs)
                .input("module index", index),
        );
    }

    fn container_images(&mut self, parts: &BTreeMap<String, (Part, StepInputs)>) {
        for (name, image) in &self.inputs.manifest.container_images {
            if let Some(resolved) = self.inputs.images.get(name) {
                self.image_blobs(name, resolved);
                continue;
            }
            let ImageContent::Built(built) = &image.content else { continue };
            let reference = image.parsed.to_string();
            let (part, inputs) = parts.get(&built.component).cloned().unwrap_or_default();
            let task = Task::ContainerImage {
                name: name.clone(),
                reference: reference.clone(),
                image: built.clone(),
                part: part.clone(),
            };
            let step = self.push(&format!("container-image {name}"), "container-image", 2, Pool::Processor, task);
            let step = step
                .parameter("reference", &reference)
                .parameter("image", built)
                .parameter("part", &part)
                .parameter("arch", &self.inputs.arch)
                .parameter("epoch", &self.inputs.epoch)
                .inputs(&inputs);
            let step = self.add(step);
            let input = |output: &str| {
                let from = Input::Output { step: step.clone(), output: output.to_owned() };
                (format!("container-image {name} {output}"), from)
            };
            self.images.push(ImageBlobs {
                names: vec![reference],
                manifest: format!("container-image {name} manifest"),
                media_type: crate::oci::document::MANIFEST.to_owned(),
                inputs: ["manifest", "config", "layer"].into_iter().map(input).collect(),
            });
        }
    }

    /// Adds the steps that get the blobs of a pinned container image. A blob that several images share is fetched once.
    fn image_blobs(&mut self, name: &str, image: &ResolvedImage) {
        let mut inputs = StepInputs::new();
        let input_name = |blob: &ImageBlob| format!("container-image {name} {}", blob.digest);
        match &image.source {
            ImageSource::Registry { .. } => {
                for blob in image.pinned.blobs() {
                    let task = Task::FetchImageBlob { name: name.to_owned(), image: image.clone(), blob: blob.clone() };
                    let step = self.push(&format!("fetch blob {}", blob.digest), "fetch", 1, Pool::Network, task);
                    let step = self.add(step.parameter("sha256", &blob.digest));
                    inputs.insert(input_name(blob), Input::Output { step, output: "blob".to_owned() });
                }
            }
            ImageSource::Local { digest, .. } => {
                let task = Task::TakeImage { name: name.to_owned(), image: image.clone() };
                let step = self.push(&format!("container-image {name}"), "take-image", 1, Pool::Processor, task);
                let step = self.add(
                    step.parameter("manifest", &image.pinned.manifest.digest)
                        .parameter("reference", &image.pinned.reference)
                        .parameter("arch", &self.inputs.arch)
                        .input("source", Input::Digest(*digest)),
                );
                for blob in image.pinned.blobs() {
                    let output = blob.digest.hex();
                    inputs.insert(input_name(blob), Input::Output { step: step.clone(), output });
                }
            }
        }
        self.images.push(ImageBlobs {
            names: image.names(),
            manifest: input_name(&image.pinned.manifest),
            media_type: image.pinned.manifest.media_type.clone(),
            inputs,
        });
    }

    /// Returns the component that gives the runtime: the one that is installed at its place.
    fn runtime_part(&self, parts: &BTreeMap<String, (Part, StepInputs)>) -> (Part, StepInputs) {
        let place = ksos_formats::layout::RUNTIME_BINARY.trim_start_matches('/');
        let found = self.inputs.manifest.components.iter().find(|(_, component)| match &component.source {
            Source::Cargo(cargo) => cargo.install_to.relative() == place,
            Source::File(file) => installs(&file.unpack, place),
            Source::Http(http) => installs(&http.unpack, place),
            Source::Apt(_) | Source::Kernel(_) | Source::TinyCore(_) => false,
        });
        found.and_then(|(name, _)| parts.get(name)).cloned().unwrap_or_default()
    }

    fn root(
        &mut self,
        image: &ImageId,
        parts: &BTreeMap<String, (Part, StepInputs)>,
        (kernel, kernel_inputs): (&Part, &StepInputs),
        (runtime, runtime_inputs): &(Part, StepInputs),
    ) {
        let manifest = self.inputs.manifest;
        let mut merged = Vec::new();
        let mut inputs = kernel_inputs.clone();
        inputs.extend(runtime_inputs.clone());
        for (name, component) in &manifest.components {
            if component.into != Destination::Root {
                continue;
            }
            let (part, part_inputs) = parts[name].clone();
            merged.push(part);
            inputs.extend(part_inputs);
        }
        let output = |step: &str, output: &str| Input::Output { step: step.to_owned(), output: output.to_owned() };
        inputs.insert("kernel modules".to_owned(), output("modules", "index"));
        inputs.insert("initramfs modules".to_owned(), output("initramfs-modules", "index"));
        inputs.insert("module index".to_owned(), output("kernel", "modules"));
        let names: Vec<&Vec<String>> = self.images.iter().map(|image| &image.names).collect();
        let names = digest_of(&names);
        self.images.iter().for_each(|image| inputs.extend(image.inputs.clone()));
        for (name, overlay) in self.inputs.overlays {
            inputs.insert(format!("overlay {name}"), Input::Digest(overlay.digest));
        }
        let task = Task::Root { parts: merged.clone(), kernel: kernel.clone(), runtime: runtime.clone() };
        let step = self.push("root", "root", 5, Pool::Processor, task).inputs(&inputs);
        let step = step
            .parameter("composer", &self.inputs.composer)
            .parameter("image", image)
            .parameter("hostname", &manifest.image.hostname)
            .parameter("parts", &merged)
            .parameter("runtime", runtime)
            .parameter("kernel", kernel)
            .parameter("kernel-settings", &manifest.kernel)
            .parameter("required-options", &digest_of(&self.inputs.required_options))
            .parameter("denied-modules", &digest_of(&crate::kernel::denied_modules()))
            .parameter("settings", &manifest.root)
            .parameter("overlays", &manifest.overlays)
            .parameter("files", &manifest.files)
            .parameter("links", &manifest.links)
            .parameter("sysctl", &manifest.sysctl)
            .parameter("users", &manifest.users)
            .parameter("services", &services(manifest))
            .parameter("container-images", &names)
            .parameter("workloads", &manifest.workloads)
            .parameter("node", &manifest.node)
            .parameter("update", &super::resolved::update_config(manifest))
            .parameter("packages", &digest_of(&super::packages::list(self.inputs)))
            .parameter("trust", &digest_of(&self.inputs.trust))
            .parameter("console", &manifest.console)
            .parameter("partitions", &manifest.partitions)
            .parameter("budgets", &manifest.budgets);
        self.add(step);
        if manifest.outputs.wanted(manifest.update.is_enabled()).contains(&OutputFormat::OciImage) {
            self.system_image(image, merged, &inputs);
        }
    }

    /// Adds the step that makes a container image of the root file system, which has the same inputs. What else decides
    /// it is in the root image.
    fn system_image(&mut self, image: &ImageId, parts: Vec<Part>, inputs: &StepInputs) {
        let command = super::resolved::container_command(self.inputs.manifest);
        let task = Task::SystemImage { parts, command: command.clone() };
        let step = self.push(SYSTEM_IMAGE, SYSTEM_IMAGE, 1, Pool::Processor, task).inputs(inputs);
        let root = Input::Output { step: "root".to_owned(), output: "image".to_owned() };
        self.add(step.parameter("image", image).parameter("command", &command).input("root", root));
    }

    fn initramfs(&mut self, image: &ImageId, (runtime, runtime_inputs): (Part, StepInputs)) {
        let output = |step: &str, output: &str| Input::Output { step: step.to_owned(), output: output.to_owned() };
        let task = Task::InitramfsBase { runtime: runtime.clone() };
        let step = self.push("initramfs-base", "initramfs-base", 1, Pool::Processor, task);
        let step = step
            .parameter("epoch", &image.epoch)
            .parameter("runtime", &runtime)
            .inputs(&runtime_inputs)
            .input("kernel modules", output("initramfs-modules", "index"));
        let base = self.add(step);
        let step = self.push("initramfs", "initramfs", 1, Pool::Processor, Task::Initramfs);
        let always: Vec<String> =
            self.inputs.manifest.kernel.initramfs_modules.iter().map(ToString::to_string).collect();
        let step = step
            .parameter("image", image)
            .parameter("mode", &self.inputs.manifest.root.mode)
            .parameter("modules", &always)
            .parameter("partitions", &self.inputs.manifest.partitions)
            .input("base", output(&base, "initramfs"))
            .input("root", output("root", "root"))
            .input("kernel", output("kernel", "modules"));
        self.add(step);
    }
}

/// Services as the key needs them: with their runtime form, which does not leave out what the manifest skips.
fn services(manifest: &crate::manifest::Manifest) -> BTreeMap<&String, String> {
    manifest.services.iter().map(|(name, service)| (name, format!("{service:?}"))).collect()
}

fn installs(unpack: &Unpack, place: &str) -> bool {
    unpack.install.iter().flatten().any(|install| install.to.relative() == place)
}

fn unpack_selection(unpack: &Unpack, expand: impl Fn(&str) -> String) -> Selection {
    let Unpack { format: _, strip, install, prefix } = unpack;
    let install = install
        .iter()
        .flatten()
        .map(|Install { from, to, mode }| (expand(from), to.relative().to_owned(), mode.map(|mode| mode.0)));
    Selection {
        strip: *strip,
        prefix: prefix.as_ref().map(|prefix| prefix.relative().to_owned()).unwrap_or_default(),
        install: install.collect(),
        ..Selection::default()
    }
}

struct StepDraft {
    step: Step,
}

impl StepDraft {
    fn parameter<T: Serialize>(mut self, name: &str, value: &T) -> Self {
        let text = serde_json::to_string(value).expect("the project's own types can be serialised");
        self.step.parameters.insert(name.to_owned(), text);
        self
    }

    fn input(mut self, name: &str, input: Input) -> Self {
        self.step.inputs.insert(name.to_owned(), input);
        self
    }

    fn inputs(mut self, inputs: &StepInputs) -> Self {
        self.step.inputs.extend(inputs.iter().map(|(name, input)| (name.clone(), input.clone())));
        self
    }
}
