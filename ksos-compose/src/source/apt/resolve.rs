//! Which packages an image needs: the requested ones and everything they depend on.
//!
//! The newest version of all suites wins, unless a relation or a request asks for another. Requests are chosen first, then
//! dependencies breadth-first; nothing is ever taken back. A relation is met by what is chosen already, else by its first
//! alternative that is available, real packages before virtual ones. A package that is excluded counts as present and is
//! left out. No package is added for being essential. The same archive and requests give the same answer, whatever the
//! order of the requests.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};

use super::index::Archive;
use super::packages::{Key, Package, is_name};
use super::relation::{self, Relation};
use super::version;

pub use error::{Conflict, ResolveError};

mod error;

/// The most names that an error suggests.
const SUGGESTIONS: usize = 3;

/// How to resolve.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Whether `Recommends` are followed too; those that cannot be met are passed over.
    pub recommends: bool,
    /// Names left out, as if they were there already.
    pub exclude: &'a [String],
}

/// One package, found for good: what a lock file keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pinned {
    /// Name of the binary package.
    pub name: String,
    /// Full Debian version.
    pub version: String,
    /// `amd64`, `arm64` or `all`.
    pub architecture: String,
    /// The manifest's name of the archive.
    pub repository: String,
    /// Path below the archive.
    pub path: String,
    /// Size of the `.deb` in bytes.
    pub size: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: Digest,
    /// Name of the source package.
    pub source: String,
    /// Archive section, e.g. `kernel`.
    pub section: String,
}

/// A package by its index and its number there.
type Id = (usize, usize);

/// A parsed request.
struct Asked<'a> {
    text: &'a str,
    name: &'a str,
    architecture: Option<&'a str>,
    version: Option<&'a str>,
    suite: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn parse(text: &'a str) -> Result<Self, ResolveError> {
        let (rest, version, suite) = if let Some((rest, version)) = text.split_once('=') {
            (rest, Some(version), None)
        } else if let Some((rest, suite)) = text.split_once('/') {
            (rest, None, Some(suite))
        } else {
            (text, None, None)
        };
        let (name, architecture) = match rest.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (rest, None),
        };
        let good = is_name(name)
            && architecture.is_none_or(is_name)
            && version.is_none_or(version::is_valid)
            && suite.is_none_or(|suite| !suite.is_empty());
        let error = || ResolveError::Request { request: text.to_owned() };
        good.then_some(Asked { text, name, architecture, version, suite }).ok_or_else(error)
    }
}

/// An archive, by name: what an image of one architecture can choose from. Making it takes longer than resolving.
#[derive(Debug)]
pub struct Universe<'a> {
    archive: &'a Archive,
    native: &'a str,
    /// Newest first; at the same version, in the order of the indexes.
    by_name: HashMap<&'a str, Vec<Id>>,
    /// Who provides a name, in which version.
    providers: HashMap<&'a str, Vec<(Id, Option<&'a str>)>>,
}

impl<'a> Universe<'a> {
    /// Returns what `archive` offers to an image of the architecture `native`, in Debian's name, e.g. `arm64`.
    pub fn new(archive: &'a Archive, native: &'a str) -> Self {
        let mut by_name: HashMap<&str, Vec<Id>> = HashMap::new();
        let mut providers: HashMap<&str, Vec<(Id, Option<&str>)>> = HashMap::new();
        for (index, packages) in archive.indexes.iter().enumerate() {
            for (number, package) in packages.packages.iter().enumerate() {
                by_name.entry(package.name()).or_default().push((index, number));
                // A malformed Provides provides nothing.
                let provides = relation::parse(package.get(Key::Provides), native).unwrap_or_default();
                for provided in provides.into_iter().flatten() {
                    let version = provided.constraint.map(|(_, version)| version);
                    providers.entry(provided.name).or_default().push(((index, number), version));
                }
            }
        }
        let package = |id: Id| archive.indexes[id.0].packages.get(id.1);
        for ids in by_name.values_mut().filter(|ids| ids.len() > 1) {
            // Stable: equal versions stay in the order of the indexes.
            ids.sort_by(|a, b| version::compare(package(*b).version(), package(*a).version()));
        }
        Universe { archive, native, by_name, providers }
    }

    /// Chooses `requests` (`name`, `name:arch`, `name=version`, `name/suite`) and all they need, sorted by name.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, requests: &[String], options: &Options<'_>) -> Result<Vec<Pinned>, ResolveError> {
        let mut resolver = Resolver {
            universe: self,
            recommends: options.recommends,
            exclude: options.exclude.iter().map(String::as_str).collect(),
            chosen: BTreeMap::new(),
            parents: HashMap::new(),
            queue: VecDeque::new(),
        };
        let unique: BTreeSet<&String> = requests.iter().collect();
        let mut requests = unique.into_iter().map(|text| Asked::parse(text)).collect::<Result<Vec<_>, _>>()?;
        // Those that ask for a version or suite go first, so that a plain request of the same package agrees with them.
        requests.sort_by_key(|asked| asked.version.is_none() && asked.suite.is_none());
        for asked in &requests {
            resolver.request(asked)?;
        }
        while let Some(id) = resolver.queue.pop_front() {
            resolver.dependencies(id)?;
        }
        resolver.check_conflicts()?;
        Ok(resolver.chosen.values().map(|id| self.pin(*id)).collect())
    }

    /// Returns the one package that `request` is about, without what it needs.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn find(&self, request: &str) -> Result<Pinned, ResolveError> {
        Ok(self.pin(self.asked(&Asked::parse(request)?)?))
    }

    /// Returns the versions of `name` for `architecture`, newest first.
    pub fn versions(&self, name: &str, architecture: &str) -> Vec<&'a str> {
        let ids = self.named(name).iter().filter(|id| self.architecture(**id) == architecture);
        let mut versions: Vec<&str> = ids.map(|id| self.package(*id).version()).collect();
        versions.dedup();
        versions
    }

    fn package(&self, id: Id) -> Package<'a> {
        self.archive.indexes[id.0].packages.get(id.1)
    }

    fn suite(&self, id: Id) -> &'a str {
        &self.archive.indexes[id.0].suite
    }

    /// Returns the architecture that a package's relations are about: packages for all belong to the image's own.
    fn architecture(&self, id: Id) -> &'a str {
        match self.package(id).architecture() {
            "all" => self.native,
            other => other,
        }
    }

    fn named(&self, name: &str) -> &[Id] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    fn provided(&self, name: &str) -> &[(Id, Option<&'a str>)] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Tells whether `id` has an architecture that meets a relation of a package of `architecture`. Files for all
    /// architectures serve every package: nothing is configured here, so `Multi-Arch` need not say so.
    fn fits(&self, id: Id, qualifier: Option<&str>, architecture: &str) -> bool {
        let own = self.architecture(id);
        let multi_arch = self.package(id).get(Key::MultiArch);
        match qualifier {
            None => own == architecture || multi_arch == "foreign" || self.package(id).architecture() == "all",
            Some("any") => own == architecture || matches!(multi_arch, "allowed" | "foreign"),
            Some("native") => own == self.native,
            Some(other) => own == other,
        }
    }

    /// Returns whether `id` is of the newest version of its package for its architecture.
    fn is_newest(&self, id: Id) -> bool {
        let same = |other: &&Id| self.architecture(**other) == self.architecture(id);
        self.named(self.package(id).name()).iter().find(same) == Some(&id)
    }

    fn label(&self, id: Id) -> String {
        let package = self.package(id);
        let architecture = self.architecture(id);
        if architecture == self.native {
            format!("{} {}", package.name(), package.version())
        } else {
            format!("{}:{architecture} {}", package.name(), package.version())
        }
    }

    /// Lists the versions of `name` with their suites.
    fn available(&self, name: &str) -> Vec<String> {
        let mut shown = Vec::new();
        for id in self.named(name) {
            let text = format!("{} ({})", self.label(*id), self.suite(*id));
            if !shown.contains(&text) {
                shown.push(text);
            }
        }
        shown
    }

    fn nearest(&self, name: &str) -> Vec<String> {
        let names = self.by_name.keys().chain(self.providers.keys()).copied().collect::<BTreeSet<_>>();
        let score = |other: &str| strsim::jaro_winkler(name, other);
        let mut scored: Vec<(f64, &str)> = names.into_iter().map(|other| (score(other), other)).collect();
        scored.retain(|(score, _)| *score > 0.87);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.into_iter().take(SUGGESTIONS).map(|(_, name)| name.to_owned()).collect()
    }

    fn asked(&self, asked: &Asked<'_>) -> Result<Id, ResolveError> {
        let architecture = asked.architecture.unwrap_or(self.native);
        let request = || asked.text.to_owned();
        let matches = |id: &&Id| {
            self.architecture(**id) == architecture
                && asked.version.is_none_or(|version| self.package(**id).version() == version)
                && asked.suite.is_none_or(|suite| self.suite(**id) == suite)
        };
        let named = self.named(asked.name);
        if let Some(id) = named.iter().find(matches) {
            return Ok(*id);
        }
        if !named.is_empty() {
            return Err(ResolveError::NoVersion { request: request(), available: self.available(asked.name) });
        }
        let fits = |id: &Id| self.architecture(*id) == architecture && self.is_newest(*id);
        let provided: Vec<Id> = self.provided(asked.name).iter().map(|(id, _)| *id).filter(fits).collect();
        match (provided.as_slice(), asked.version.or(asked.suite)) {
            ([only], None) => Ok(*only),
            ([], _) => Err(ResolveError::Unknown {
                request: request(),
                searched: self.searched(),
                nearest: self.nearest(asked.name),
            }),
            (several, _) => {
                let names: BTreeSet<_> = several.iter().map(|id| self.package(*id).name().to_owned()).collect();
                Err(ResolveError::Virtual { request: request(), providers: names.into_iter().collect() })
            }
        }
    }

    fn searched(&self) -> Vec<String> {
        let mut searched: Vec<String> = Vec::new();
        for index in &self.archive.indexes {
            if !searched.contains(&index.suite) {
                searched.push(index.suite.clone());
            }
        }
        searched
    }

    fn pin(&self, id: Id) -> Pinned {
        let package = self.package(id);
        Pinned {
            name: package.name().to_owned(),
            version: package.version().to_owned(),
            architecture: package.architecture().to_owned(),
            repository: self.archive.indexes[id.0].repository.clone(),
            path: package.get(Key::Filename).to_owned(),
            size: package.size(),
            sha256: package.digest(),
            source: package.source().to_owned(),
            section: package.get(Key::Section).to_owned(),
        }
    }
}

struct Resolver<'a> {
    universe: &'a Universe<'a>,
    recommends: bool,
    exclude: BTreeSet<&'a str>,
    /// By name and architecture.
    chosen: BTreeMap<(&'a str, &'a str), Id>,
    /// Which package needed it; none: requested.
    parents: HashMap<Id, Id>,
    queue: VecDeque<Id>,
}

impl<'a> Resolver<'a> {
    fn choose(&mut self, id: Id, parent: Option<Id>) {
        let key = (self.universe.package(id).name(), self.universe.architecture(id));
        self.chosen.insert(key, id);
        if let Some(parent) = parent {
            self.parents.insert(id, parent);
        }
        self.queue.push_back(id);
    }

    fn chosen_like(&self, id: Id) -> Option<Id> {
        let key = (self.universe.package(id).name(), self.universe.architecture(id));
        self.chosen.get(&key).copied()
    }

    fn is_chosen(&self, id: Id) -> bool {
        // The same package may stand in several indexes.
        let same = |other: Id| self.universe.package(other).version() == self.universe.package(id).version();
        self.chosen_like(id).is_some_and(same)
    }

    fn request(&mut self, asked: &Asked<'_>) -> Result<(), ResolveError> {
        let id = self.universe.asked(asked)?;
        match self.chosen_like(id) {
            None => self.choose(id, None),
            Some(_) if self.is_chosen(id) || (asked.version.is_none() && asked.suite.is_none()) => {}
            Some(other) => {
                let name = self.universe.package(id).name().to_owned();
                let (first, second) = (self.universe.label(other), self.universe.label(id));
                return Err(ResolveError::Twice { name, first, second });
            }
        }
        Ok(())
    }

    fn relations(&self, id: Id, key: Key, field: &'static str) -> Result<Vec<Vec<Relation<'a>>>, ResolveError> {
        let universe = self.universe;
        let text = universe.package(id).get(key);
        relation::parse(text, universe.architecture(id)).map_err(|source| ResolveError::Relation {
            package: universe.label(id),
            field,
            source,
        })
    }

    fn dependencies(&mut self, id: Id) -> Result<(), ResolveError> {
        for (key, field) in [(Key::PreDepends, "Pre-Depends"), (Key::Depends, "Depends")] {
            for group in self.relations(id, key, field)? {
                self.satisfy(id, &group)?;
            }
        }
        if self.recommends {
            for group in self.relations(id, Key::Recommends, "Recommends")? {
                // "Packages that would be found together with this one in all but unusual installations" (Debian Policy,
                // section 7.2): one that cannot be had is no failure.
                let _ = self.satisfy(id, &group);
            }
        }
        Ok(())
    }

    /// Sees to it that one alternative of `group`, which `parent` needs, is chosen.
    fn satisfy(&mut self, parent: Id, group: &[Relation<'a>]) -> Result<(), ResolveError> {
        let architecture = self.universe.architecture(parent);
        if group.iter().any(|relation| self.is_met(relation, architecture)) {
            return Ok(());
        }
        for relation in group {
            match self.candidate(relation, architecture) {
                Candidate::Package(id) => {
                    self.choose(id, Some(parent));
                    return Ok(());
                }
                Candidate::Excluded => return Ok(()),
                Candidate::None => {}
            }
        }
        let texts: Vec<String> = group.iter().map(Relation::to_string).collect();
        Err(ResolveError::Unsatisfiable {
            chain: self.chain(parent),
            relation: texts.join(" | "),
            causes: group.iter().map(|relation| self.cause(relation, architecture)).collect(),
            nearest: match group {
                [one] if self.universe.named(one.name).is_empty() => self.universe.nearest(one.name),
                _ => Vec::new(),
            },
        })
    }

    /// Tells whether something chosen or excluded meets `relation` of a package of `architecture`.
    fn is_met(&self, relation: &Relation<'_>, architecture: &str) -> bool {
        let universe = self.universe;
        let fits = |id: Id| universe.fits(id, relation.qualifier, architecture);
        let real = |id: &Id| fits(*id) && relation.accepts(universe.package(*id).version()) && self.is_chosen(*id);
        let provided =
            |(id, version): &(Id, Option<&str>)| fits(*id) && provides(relation, *version) && self.is_chosen(*id);
        self.exclude.contains(relation.name)
            || universe.named(relation.name).iter().any(real)
            || universe.provided(relation.name).iter().any(provided)
    }

    /// Finds what to choose for `relation`.
    fn candidate(&self, relation: &Relation<'_>, architecture: &str) -> Candidate {
        let universe = self.universe;
        let free = |id: Id| universe.fits(id, relation.qualifier, architecture) && self.chosen_like(id).is_none();
        // The package's own architecture first, then the image's.
        let distance = |id: Id| {
            let own = universe.architecture(id);
            if own == architecture {
                0
            } else if own == universe.native {
                1
            } else {
                2
            }
        };
        let real = universe.named(relation.name).iter().copied();
        let real = real.filter(|id| free(*id) && relation.accepts(universe.package(*id).version()));
        if let Some(id) = real.min_by_key(|id| distance(*id)) {
            return Candidate::Package(id);
        }
        let usable =
            |(id, version): &&(Id, Option<&str>)| free(*id) && provides(relation, *version) && universe.is_newest(*id);
        let mut provided: Vec<Id> = universe.provided(relation.name).iter().filter(usable).map(|(id, _)| *id).collect();
        let any = !provided.is_empty();
        provided.retain(|id| !self.exclude.contains(universe.package(*id).name()));
        let rank = |id: &Id| (distance(*id), priority(universe.package(*id)), universe.package(*id).name(), *id);
        match provided.into_iter().min_by_key(rank) {
            Some(id) => Candidate::Package(id),
            None if any => Candidate::Excluded,
            None => Candidate::None,
        }
    }

    /// Says why `relation` cannot be met.
    fn cause(&self, relation: &Relation<'_>, architecture: &str) -> String {
        let universe = self.universe;
        let named = universe.named(relation.name);
        let chosen =
            named.iter().find(|id| self.is_chosen(**id) && universe.fits(**id, relation.qualifier, architecture));
        match chosen {
            Some(id) => format!("{} is chosen ({})", universe.label(*id), self.chain(*id).join(" -> ")),
            None if named.is_empty() => format!("no package {} in {}", relation.name, universe.searched().join(", ")),
            None => format!("there is {}", universe.available(relation.name).join(", ")),
        }
    }

    /// Returns the labels from a requested package to `id`.
    fn chain(&self, id: Id) -> Vec<String> {
        let mut chain = vec![self.universe.label(id)];
        let mut current = id;
        while let Some(parent) = self.parents.get(&current) {
            chain.push(self.universe.label(*parent));
            current = *parent;
        }
        chain.reverse();
        chain
    }

    fn check_conflicts(&self) -> Result<(), ResolveError> {
        for id in self.chosen.values() {
            for (key, field, verb) in
                [(Key::Conflicts, "Conflicts", "conflicts with"), (Key::Breaks, "Breaks", "breaks")]
            {
                for relation in self.relations(*id, key, field)?.into_iter().flatten() {
                    if let Some(other) = self.conflicting(*id, &relation) {
                        return Err(ResolveError::Conflict(Box::new(Conflict {
                            first: self.universe.label(*id),
                            verb,
                            relation: relation.to_string(),
                            second: self.universe.label(other),
                            first_chain: self.chain(*id),
                            second_chain: self.chain(other),
                        })));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns a chosen package that `relation`, a conflict of `id`, is about. A package never conflicts with itself, also
    /// not through what it provides (Debian Policy, section 7.6.2).
    fn conflicting(&self, id: Id, relation: &Relation<'_>) -> Option<Id> {
        let universe = self.universe;
        let other = |other: Id| {
            let qualified = match relation.qualifier {
                None | Some("any") => true,
                Some("native") => universe.architecture(other) == universe.native,
                Some(architecture) => universe.architecture(other) == architecture,
            };
            qualified && self.is_chosen(other) && universe.package(other).name() != universe.package(id).name()
        };
        let real = |candidate: &Id| other(*candidate) && relation.accepts(universe.package(*candidate).version());
        let provided = |(candidate, version): &&(Id, Option<&str>)| other(*candidate) && provides(relation, *version);
        let real = universe.named(relation.name).iter().copied().find(real);
        real.or_else(|| universe.provided(relation.name).iter().find(provided).map(|(id, _)| *id))
    }
}

/// What a relation leads to.
enum Candidate {
    Package(Id),
    /// Only packages that are left out meet it.
    Excluded,
    None,
}

/// Tells whether something that provides a name in `version` meets `relation`: "a relationship [...] with a version number
/// [...] considers only [...] versioned virtual packages" (Debian Policy, section 7.5).
fn provides(relation: &Relation<'_>, version: Option<&str>) -> bool {
    relation.constraint.is_none() || version.is_some_and(|version| relation.accepts(version))
}

/// Orders packages by their priority field.
fn priority(package: Package<'_>) -> usize {
    let order = ["required", "important", "standard", "optional"];
    order.iter().position(|name| *name == package.get(Key::Priority)).unwrap_or(order.len())
}

#[cfg(test)]
mod tests;
