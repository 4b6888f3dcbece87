//! Why requests cannot be met.

use super::relation;

/// The requests cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A request is not in the form `name[:arch][=version|/suite]`.
    #[error("{request:?} is not a package: expected NAME, NAME:ARCH, NAME=VERSION or NAME/SUITE")]
    Request {
        /// The request.
        request: String,
    },
    /// A requested package is not there.
    #[error("no package {request} in {}{}", searched.join(", "), suggestion(nearest))]
    Unknown {
        /// The request.
        request: String,
        /// The suites searched.
        searched: Vec<String>,
        /// Names like it.
        nearest: Vec<String>,
    },
    /// A requested package is there in other versions only.
    #[error("no package {request}; there is {}", available.join(", "))]
    NoVersion {
        /// The request.
        request: String,
        /// Versions with their suites.
        available: Vec<String>,
    },
    /// A requested name is virtual, and several packages provide it.
    #[error("{request} is a virtual package, provided by {}", providers.join(", "))]
    Virtual {
        /// The request.
        request: String,
        /// The packages that provide it.
        providers: Vec<String>,
    },
    /// The same package is requested twice, differently.
    #[error("{name} is requested as {first} and as {second}")]
    Twice {
        /// The package.
        name: String,
        /// A version.
        first: String,
        /// Another version.
        second: String,
    },
    /// A dependency cannot be met.
    #[error("{} needs {relation}, which cannot be had: {}{}", chain.join(" -> "), causes.join("; "), suggestion(nearest))]
    Unsatisfiable {
        /// From the requested package to the one that needs it, with versions.
        chain: Vec<String>,
        /// The relation.
        relation: String,
        /// Why each alternative is out.
        causes: Vec<String>,
        /// Names like it.
        nearest: Vec<String>,
    },
    /// Two chosen packages exclude each other.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// A relation cannot be read.
    #[error("{package}, {field}: {source}")]
    Relation {
        /// The package, with its version.
        package: String,
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: relation::RelationError,
    },
}

/// Two chosen packages exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} cannot be together: {first} {verb} {relation} (chosen: {}; {})", first_chain.join(" -> "), second_chain.join(" -> "))]
pub struct Conflict {
    /// The package that says so, with its version.
    pub first: String,
    /// `conflicts with` or `breaks`.
    pub verb: &'static str,
    /// What it says.
    pub relation: String,
    /// The other package, with its version.
    pub second: String,
    /// Why the first is chosen: from a requested package to it.
    pub first_chain: Vec<String>,
    /// Why the second is chosen.
    pub second_chain: Vec<String>,
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!(" (similar: {})", nearest.join(", ")) }
}
