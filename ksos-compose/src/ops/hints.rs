//! What a user can do about a failure.

use super::OpError;
use crate::source::apt::AptError;

impl OpError {
    /// Returns suggestions.
    pub fn hints(&self) -> Vec<String> {
        match self {
            OpError::Package { component, manifest, source } if matches!(&**source, AptError::Gone { now, .. } if !now.is_empty()) =>
            {
                let manifest = manifest.display();
                vec![format!("`ksos-compose update --manifest {manifest} {component}` takes the version there is now")]
            }
            OpError::Fetch { component, .. } | OpError::Http { component, .. } | OpError::Package { component, .. } => {
                vec![format!("--component {component}=PATH uses a local file or directory instead")]
            }
            OpError::ContainerImage { name, .. } => {
                let option = format!("--component container-images.{name}=PATH");
                vec![format!("{option} uses a local archive or OCI layout instead")]
            }
            OpError::Cargo { component, source } => vec![source.hint(component)],
            OpError::KernelBuild { component, source } => vec![source.hint(component)],
            OpError::TinyCore { component, source } => {
                let local = || format!("--component {component}=PATH uses a local file or directory instead");
                vec![source.hint().map_or_else(local, str::to_owned)]
            }
            OpError::Publish(error) => error.hints(),
            OpError::Flash(error) => error.hints(),
            OpError::Push(error) => error.hints(),
            OpError::Damaged { .. } => {
                vec![
                    "another run makes or fetches them again; should it last, look at the disk and the memory"
                        .to_owned(),
                ]
            }
            OpError::NoManifest { .. } => vec!["--manifest says it".to_owned()],
            OpError::TooLargeToSign { .. } => {
                vec!["a build lists its digest in SHA256SUMS, whose signature counts for all files in it".to_owned()]
            }
            OpError::Indexes { components, .. } => {
                let names = components.join(", ");
                vec![
                    "KSOS_APT_MIRROR names a mirror that can be reached, e.g. http://mirror.example/debian".to_owned(),
                    format!("--component NAME=PATH uses a local file or directory instead, for each of {names}"),
                ]
            }
            OpError::Steps { failures } => {
                let mut hints: Vec<String> = failures.iter().flat_map(|(_, error)| error.hints()).collect();
                hints.dedup();
                hints
            }
            _ => Vec::new(),
        }
    }
}
