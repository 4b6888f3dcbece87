//! From a finished build to its bill of materials.

use std::collections::BTreeMap;

use ksos_formats::Digest;

use super::StepOutputs;
use crate::cache::Cache;
use crate::cache::table::Table;
use crate::graph::Input;
use crate::manifest::{AptRepository, ImageContent, Manifest, Source};
use crate::oci::reference::Reference;
use crate::ops::build::execute::Executor;
use crate::ops::build::resolve::Project;
use crate::ops::{OpError, Session};
use crate::plan::{self, Download, Plan, Program, Resolved, TinyCoreFile, TinyCorePlace};
use crate::sbom::files::{self, Owner, RootFiles};
use crate::sbom::licence::{self, Licence, Stated};
use crate::sbom::purl::purl;
use crate::sbom::{Bom, Kind, Package, crates, distribution};
use crate::source::archive;

/// The table of licences by the digest of a package's index. A new way of reading them takes a new name.
const TABLE: &str = "licences-1";

/// A package with the part of a component that it is.
struct Found {
    package: Package,
    component: String,
    part: String,
    /// Digests by which files are known to be of it.
    blobs: Vec<Digest>,
}

/// Collects what the image is made of.
///
/// # Errors
/// When the cache lost a package, or the files of a workspace cannot be read.
pub fn collect(
    session: &Session,
    project: &Project,
    plan: &Plan,
    outputs: &StepOutputs,
    executor: &Executor<'_>,
) -> Result<Bom, OpError> {
    let mut found = Vec::new();
    let mut listed: RootFiles = executor.json(&outputs["root"]["files"])?;
    let known = std::mem::take(&mut listed.licences).into_iter();
    let known = known.map(|(component, part, stated)| ((component, part), stated)).collect();
    let cache = &session.cache;
    let mut licences = Licences { executor, cache, table: Table::open(cache, TABLE), plan, outputs, known };
    for (component, resolved) in &project.components {
        let source = project.manifest().components.get(component).map(|component| &component.source);
        match (&resolved.content, source) {
            (Resolved::Packages(packages), _) => {
                let parts = plan.parts.get(component).map(|(part, _)| part.inputs.as_slice()).unwrap_or_default();
                for (package, part) in packages.iter().zip(parts) {
                    let licence = licences.of(component, part, &package.pinned.name)?;
                    found.push(debian(project.manifest(), package, component, part, licence));
                }
            }
            (Resolved::Download(download), source) => found.push(generic(component, download, source)),
            (Resolved::File { digest, name, .. }, _) => found.push(local(component, *digest, name)),
            // Its files are of the image: there is nothing that others could know it by.
            (Resolved::Directory(_), _) => {}
            (Resolved::Program(program), _) => found.extend(built(program)?),
            // Its source is a component of its own.
            (Resolved::Kernel(_), _) => found.push(built_kernel(component)),
            (Resolved::TinyCore(files), _) => found.extend(files.iter().map(|file| tiny_core(component, file))),
        }
    }
    licences.table.save();
    found.extend(container_images(project, plan, outputs));
    let (packages, numbers) = merge(&found);
    let places: BTreeMap<(&str, &str), usize> = found
        .iter()
        .zip(&numbers)
        .map(|(one, number)| ((one.component.as_str(), one.part.as_str()), *number))
        .collect();
    let kernel = kernel(project.manifest(), &found).map(|position| numbers[position]);
    let owner = |owner: &Owner, digest: &Digest| match owner {
        Owner::Component { component, part } => places.get(&(component.as_str(), part.as_str())).copied(),
        Owner::Kernel => kernel,
        Owner::ContainerImages => {
            found.iter().position(|one| one.blobs.contains(digest)).map(|position| numbers[position])
        }
        Owner::Image => None,
    };
    let mut bom = Bom {
        image: plan.image.clone(),
        composer: env!("CARGO_PKG_VERSION"),
        distribution: distribution_of(project.manifest()),
        packages,
        files: Vec::new(),
    };
    bom.set_files(listed, owner);
    Ok(bom)
}

/// Returns the packages in order, one that several components have once; and the number of each that was found.
fn merge(found: &[Found]) -> (Vec<Package>, Vec<usize>) {
    let mut packages: Vec<Package> = found.iter().map(|one| one.package.clone()).collect();
    packages.sort();
    packages.dedup_by(|next, kept| {
        let same = next.purl == kept.purl && next.sha256 == kept.sha256;
        if same && next.component != kept.component {
            kept.component = format!("{}, {}", kept.component, next.component);
        }
        same
    });
    let number = |one: &Found| {
        let same = |package: &Package| package.purl == one.package.purl && package.sha256 == one.package.sha256;
        packages.iter().position(same).unwrap_or_default()
    };
    let numbers = found.iter().map(number).collect();
    (packages, numbers)
}

/// Returns the distribution of the first package archive.
fn distribution_of(manifest: &Manifest) -> Option<(String, String)> {
    manifest.apt.values().find_map(suite).map(|suite| distribution(suite))
}

fn suite(repository: &AptRepository) -> Option<&String> {
    repository.suites.first()
}

/// Modules are of the package with the kernel.
fn kernel(manifest: &Manifest, found: &[Found]) -> Option<usize> {
    let component = &manifest.kernel.component;
    let of_kernel = |one: &Found| one.component == *component;
    let named = found.iter().position(|one| of_kernel(one) && one.package.name.starts_with("linux-image"));
    named.or_else(|| found.iter().position(of_kernel))
}

fn debian(
    manifest: &Manifest,
    package: &plan::Package,
    component: &str,
    part: &str,
    licence: Option<Licence>,
) -> Found {
    let pinned = &package.pinned;
    let repository = manifest.apt.get(&pinned.repository);
    let (vendor, release) =
        repository.and_then(suite).map_or_else(|| ("debian".to_owned(), String::new()), |suite| distribution(suite));
    let distro = if release.is_empty() { String::new() } else { format!("{vendor}-{release}") };
    let qualifiers = [("arch", pinned.architecture.as_str()), ("distro", &distro)];
    // The archive as the manifest has it: mirrors of this machine are nobody else's business.
    let mirror = repository.and_then(|repository| repository.mirrors.first());
    let supplier = match vendor.as_str() {
        "debian" => Some("Debian".to_owned()),
        "ubuntu" => Some("Ubuntu".to_owned()),
        _ => None,
    };
    let package = Package {
        kind: Kind::Debian,
        name: pinned.name.clone(),
        version: Some(pinned.version.clone()),
        purl: purl("deb", Some(&vendor), &pinned.name, Some(&pinned.version), &qualifiers),
        component: component.to_owned(),
        download: mirror.map(|mirror| format!("{}/{}", mirror.trim_end_matches('/'), pinned.path.replace('+', "%2B"))),
        sha256: Some(pinned.sha256),
        supplier,
        source: Some(pinned.source.clone()).filter(|source| *source != pinned.name),
        licence: licence.map(Into::into),
        uses: Vec::new(),
    };
    Found { package, component: component.to_owned(), part: part.to_owned(), blobs: Vec::new() }
}

/// A download; its address is the first that the manifest has.
fn generic(component: &str, download: &Download, source: Option<&Source>) -> Found {
    let version = match source {
        Some(Source::Http(http)) => http.version.clone(),
        _ => None,
    };
    let url = download.urls.first().cloned();
    let checksum = format!("sha256:{}", download.sha256);
    let qualifiers = [("checksum", checksum.as_str()), ("download_url", url.as_deref().unwrap_or_default())];
    let package = Package {
        kind: Kind::Generic,
        name: component.to_owned(),
        purl: purl("generic", None, component, version.as_deref(), &qualifiers),
        version,
        component: component.to_owned(),
        download: url,
        sha256: Some(download.sha256),
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    };
    Found { package, component: component.to_owned(), part: component.to_owned(), blobs: Vec::new() }
}

/// A file of the machine that builds.
fn local(component: &str, sha256: Digest, name: &str) -> Found {
    let checksum = format!("sha256:{sha256}");
    let package = Package {
        kind: Kind::Generic,
        name: component.to_owned(),
        version: None,
        purl: purl("generic", None, component, None, &[("checksum", &checksum), ("file_name", name)]),
        component: component.to_owned(),
        download: None,
        sha256: Some(sha256),
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    };
    Found { package, component: component.to_owned(), part: component.to_owned(), blobs: Vec::new() }
}

/// A kernel that was built from the source in another component.
fn built_kernel(component: &str) -> Found {
    let package = Package {
        kind: Kind::Generic,
        name: component.to_owned(),
        version: None,
        purl: purl("generic", None, component, None, &[]),
        component: component.to_owned(),
        download: None,
        sha256: None,
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    };
    Found { package, component: component.to_owned(), part: component.to_owned(), blobs: Vec::new() }
}

/// A base or an extension of Tiny Core.
fn tiny_core(component: &str, file: &TinyCoreFile) -> Found {
    let TinyCoreFile { pinned, place, .. } = file;
    let download = match place {
        TinyCorePlace::Urls(urls) => urls.first().cloned(),
        TinyCorePlace::Path(_) => None,
    };
    let checksum = format!("sha256:{}", pinned.sha256);
    let qualifiers = [("checksum", checksum.as_str()), ("download_url", download.as_deref().unwrap_or_default())];
    let package = Package {
        kind: Kind::Generic,
        name: pinned.name.clone(),
        version: pinned.version.clone(),
        purl: purl("generic", None, &pinned.name, pinned.version.as_deref(), &qualifiers),
        component: component.to_owned(),
        download,
        sha256: Some(pinned.sha256),
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    };
    Found { package, component: component.to_owned(), part: pinned.name.clone(), blobs: Vec::new() }
}

/// A program with its crates.
fn built(program: &Program) -> Result<Vec<Found>, OpError> {
    let failed = |source| OpError::Cargo { component: program.component.clone(), source: Box::new(source) };
    let crates = crates::of_package(&program.workspace, &program.package).map_err(failed)?;
    let url = |one: &crates::Crate| purl("cargo", None, &one.name, Some(&one.version), &[]);
    let found = crates.iter().enumerate().map(|(number, one)| {
        let download = format!("https://static.crates.io/crates/{0}/{0}-{1}.crate", one.name, one.version);
        let package = Package {
            kind: if number == 0 { Kind::Program } else { Kind::Crate },
            name: one.name.clone(),
            version: Some(one.version.clone()),
            purl: url(one),
            component: program.component.clone(),
            download: one.published.then_some(download),
            sha256: one.checksum,
            supplier: None,
            source: None,
            licence: None,
            uses: one.uses.iter().map(|used| url(&crates[*used])).collect(),
        };
        let part = if number == 0 { program.component.clone() } else { package.purl.clone() };
        Found { package, component: program.component.clone(), part, blobs: Vec::new() }
    });
    Ok(found.collect())
}

/// Container images: pinned ones, and those that are built from a component.
fn container_images(project: &Project, plan: &Plan, outputs: &StepOutputs) -> Vec<Found> {
    let blob_of = |input: &Input| match input {
        Input::Digest(digest) => Some(*digest),
        Input::Output { step, output } => outputs.get(step)?.get(output).map(|blob| blob.digest),
    };
    let pinned = project.images.iter().map(|(name, image)| {
        let blobs = image.pinned.blobs().into_iter().map(|blob| blob.digest).collect();
        carried(name, &image.reference, image.pinned.manifest.digest, blobs)
    });
    let made = project.manifest().container_images.iter().filter_map(|(name, image)| {
        matches!(image.content, ImageContent::Built(_)).then_some(())?;
        let manifest_name = format!("container-image {name} manifest");
        let image_blobs = plan.images.iter().find(|blobs| blobs.manifest == manifest_name)?;
        let manifest = blob_of(image_blobs.inputs.get(&manifest_name)?)?;
        let blobs = image_blobs.inputs.values().filter_map(blob_of).collect();
        Some(carried(name, &image.parsed, manifest, blobs))
    });
    pinned.chain(made).collect()
}

fn carried(name: &str, reference: &Reference, manifest: Digest, blobs: Vec<Digest>) -> Found {
    let last = reference.repository.rsplit('/').next().unwrap_or(&reference.repository);
    let tag = reference.tag.as_deref().unwrap_or_default();
    // "The default repository [...] must be lowercased", "version is the sha256 digest" (purl types, `oci`).
    let repository = reference.name().to_lowercase();
    let qualifiers = [("repository_url", repository.as_str()), ("tag", tag)];
    let version = format!("sha256:{manifest}");
    let component = format!("container-images.{name}");
    let package = Package {
        kind: Kind::ContainerImage,
        name: reference.name(),
        version: Some(if tag.is_empty() { version.clone() } else { tag.to_owned() }),
        purl: purl("oci", None, &last.to_lowercase(), Some(&version), &qualifiers),
        component: component.clone(),
        download: None,
        sha256: Some(manifest),
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    };
    Found { package, part: component.clone(), component, blobs }
}

/// What packages say of their licences.
struct Licences<'a> {
    executor: &'a Executor<'a>,
    cache: &'a Cache,
    table: Table,
    plan: &'a Plan,
    outputs: &'a StepOutputs,
    /// What was read when the root file system was made, by component and part.
    known: BTreeMap<(String, String), Stated>,
}

impl Licences<'_> {
    /// Returns the licence of the package `name`, which is `part` of `component`.
    fn of(&mut self, component: &str, part: &str, name: &str) -> Result<Option<Licence>, OpError> {
        match self.stated(component, part, name)? {
            Stated::Nothing => Ok(None),
            Stated::Licence(licence) => Ok(Some(licence)),
            Stated::At(other) => {
                let begin = format!("{other}_");
                let mut parts = self.plan.parts.iter();
                let found = parts.find_map(|(component, (part, _))| {
                    let part = part.inputs.iter().find(|part| part.starts_with(&begin))?;
                    Some((component.clone(), part.clone()))
                });
                let Some((component, part)) = found else { return Ok(None) };
                Ok(match self.stated(&component, &part, &other)? {
                    Stated::Licence(licence) => Some(licence),
                    Stated::Nothing | Stated::At(_) => None,
                })
            }
        }
    }

    fn stated(&mut self, component: &str, part: &str, name: &str) -> Result<Stated, OpError> {
        if let Some(known) = self.known.get(&(component.to_owned(), part.to_owned())) {
            return Ok(known.clone());
        }
        let Some(index) = index(self.plan, self.outputs, component, part) else { return Ok(Stated::Nothing) };
        if let Some(stated) = read(self.cache, &mut self.table, &index, name) {
            return Ok(stated);
        }
        // Whoever wants the tree of the component has it brought here.
        self.executor.component_tree(component, self.outputs)?;
        read(self.cache, &mut self.table, &index, name).ok_or(OpError::IndexLost { digest: index })
    }
}

/// Returns the digest of the index of a part.
fn index(plan: &Plan, outputs: &StepOutputs, component: &str, part: &str) -> Option<Digest> {
    let Input::Output { step, output } = plan.parts.get(component)?.1.get(part)? else { return None };
    outputs.get(step)?.get(output).map(|blob| blob.digest)
}

/// Reads what the package with this index states, once; none when it is not here.
fn read(cache: &Cache, table: &mut Table, index: &Digest, name: &str) -> Option<Stated> {
    if let Some(known) = table.get(index).and_then(|text| serde_json::from_str(text).ok()) {
        return Some(known);
    }
    let stated = licence::stated(&archive::load(cache, index)?, name);
    table.put(*index, serde_json::to_string(&stated).expect("a licence is JSON"));
    Some(stated)
}

/// Returns what every package that is among `outputs` says of its licence: component, part, statement.
///
/// # Errors
/// When the cache lost a package.
pub fn licences(
    project: &Project,
    plan: &Plan,
    cache: &Cache,
    outputs: &StepOutputs,
) -> Result<Vec<(String, String, Stated)>, OpError> {
    let mut table = Table::open(cache, TABLE);
    let mut all = Vec::new();
    for (component, resolved) in &project.components {
        let Resolved::Packages(packages) = &resolved.content else { continue };
        let parts = plan.parts.get(component).map(|(part, _)| part.inputs.as_slice()).unwrap_or_default();
        for (package, part) in packages.iter().zip(parts) {
            let Some(index) = index(plan, outputs, component, part) else { continue };
            let stated = read(cache, &mut table, &index, &package.pinned.name);
            let stated = stated.ok_or(OpError::IndexLost { digest: index })?;
            all.push((component.clone(), part.clone(), stated));
        }
    }
    table.save();
    Ok(all)
}

/// Returns where the contents of a component's parts are, for [`files::list`].
pub fn packs(plan: &Plan, outputs: &StepOutputs) -> files::Packs {
    let mut packs = files::Packs::new();
    for (component, (_, inputs)) in &plan.parts {
        for (part, input) in inputs {
            let Input::Output { step, .. } = input else { continue };
            if let Some(pack) = outputs.get(step).and_then(|outputs| outputs.get("pack")) {
                packs.entry(pack.digest).or_default().push((component.clone(), part.clone()));
            }
        }
    }
    packs
}
