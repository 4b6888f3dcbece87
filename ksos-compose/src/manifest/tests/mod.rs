//! Tests over whole manifests. `broken.rs` has the manifests with errors, `mutated.rs` the arbitrary ones.

use std::path::PathBuf;

use ksos_formats::Arch;

use super::*;

/// Returns the path of a file in the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace").join(path)
}

fn full(arch: Arch) -> Loaded {
    load(&repository("tests/fixtures/manifest/full.toml"), Some(arch), &DiskFiles)
        .unwrap_or_else(|errors| panic!("{}", errors.render(Style::default())))
}

#[test]
fn the_full_manifest_is_valid_for_both_architectures() {
    for arch in Arch::ALL {
        let loaded = full(arch);
        assert_eq!(loaded.arch, arch);
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.files.len(), 2);
    }
}
