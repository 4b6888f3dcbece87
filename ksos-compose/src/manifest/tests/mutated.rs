//! Arbitrary texts: whatever is read, there is a manifest or a report, and never a panic.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const FULL: &str = include_str!("../../../../tests/fixtures/manifest/full.toml");

/// Pieces that are put into a manifest: syntax, wrong types, and values that are special somewhere.
const PIECES: [&str; 28] = [
    "=",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    ",",
    ".",
    "\n",
    "#",
    "\u{0}",
    "é",
    "\u{1F600}",
    "\"\"\"",
    "-1",
    "1e400",
    "99999999999999999999",
    "2026-01-01",
    "[[a]]",
    "{ add = [\"x\"] }",
    "{ remove = [1] }",
    "true",
    "\"../..\"",
    "enabled = false\n",
    "[arch.arm64]\n",
    "extends = \"main.toml\"\n",
    "x = [[[[{}]]]]\n",
];

fn read(bytes: &[u8]) -> Result<Loaded, Errors> {
    let mut files = memory(&[]);
    files.0.insert("/m/main.toml".into(), bytes.to_vec());
    let result = load(Path::new("/m/main.toml"), Some(Arch::Arm64), &files);
    if let Err(errors) = &result {
        assert!(errors.count() > 0);
        assert!(!errors.render(Style::default()).is_empty());
        let internal = errors.diagnostics.iter().find(|error| error.code == Code::Internal);
        assert_eq!(internal.map(|error| &error.message), None, "validation let through what the types refuse");
    }
    result
}

fn boundary(text: &str, index: Index) -> usize {
    let mut at = index.index(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edited_manifests_never_panic(edits in prop::collection::vec((any::<Index>(), 0_usize..30, 0..PIECES.len()), 1..6)) {
        let mut text = FULL.to_owned();
        for (at, remove, piece) in edits {
            let start = boundary(&text, at);
            let end = (start + remove..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(start);
            text.replace_range(start..end, PIECES[piece]);
        }
        let _ = read(text.as_bytes());
    }

    #[test]
    fn manifests_with_lines_moved_or_lost_never_panic(moves in prop::collection::vec((any::<Index>(), any::<Index>(), any::<bool>()), 1..8)) {
        let mut lines: Vec<&str> = FULL.lines().collect();
        for (from, to, keep) in moves {
            let line = lines.remove(from.index(lines.len()));
            if keep {
                lines.insert(to.index(lines.len() + 1), line);
            }
        }
        let _ = read(lines.join("\n").as_bytes());
    }

    /// Every value of the manifest, one at a time, replaced by one of another kind.
    #[test]
    fn manifests_with_a_value_replaced_never_panic(line in any::<Index>(), piece in 0..PIECES.len()) {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        let at = line.index(lines.len());
        if let Some((key, _)) = lines[at].clone().split_once(" = ") {
            lines[at] = format!("{key} = {}", PIECES[piece]);
        }
        let _ = read(lines.join("\n").as_bytes());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }
}

#[test]
fn every_prefix_of_a_manifest_is_read_or_reported() {
    for end in (0..FULL.len()).step_by(37) {
        let _ = read(&FULL.as_bytes()[..end]);
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let errors = read(format!("x = {}", "[".repeat(100_000)).as_bytes()).unwrap_err();
    assert!(codes(&errors).contains(&"syntax".to_owned()));
    let keys = vec!["a"; 5_000].join(".");
    assert!(read(format!("{keys} = 1").as_bytes()).is_err());
}
