//! What was applied: `ksos/config/state.json` on the data partition.
//!
//! One file, replaced as a whole, is the commit point of a configuration. It is written with `complete: false` before
//! the first file of the configuration is written, and again with `complete: true` when all of them are. A power cut
//! before the first write leaves the old configuration in force; after it, the new one is in force even if its source is
//! gone at the next boot, and what was not written is written then. It holds the configuration itself, secrets
//! included: directory 0700, file 0600.

use ksos_formats::digest::Hasher;
use serde::{Deserialize, Serialize};

use crate::sys::{self, Sys};

use super::source::Found;

/// The current value of [`State::format`].
const FORMAT: u32 = 1;
/// Largest state file, in bytes: three documents as JSON.
const STATE_LIMIT: u64 = 16 << 20;

/// A configuration that is in force until another one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT`].
    format: u32,
    /// The configuration as it was found.
    pub found: Found,
    /// Its instance.
    pub instance_id: String,
    /// What is compared to know whether it changed; see [`digest`].
    pub digest: String,
    /// Number of the boot at which it was applied.
    pub applied_at_boot: u64,
    /// Whether everything that is done once is done.
    pub complete: bool,
}

/// Returns what tells two configurations apart: everything but the place, since a volume may be another device at the
/// next boot; and the image's default, which shows through what a document leaves out.
pub fn digest(found: &Found, default: &str) -> String {
    let Found { source, place: _, user_data, meta_data, network_config, public_keys } = found;
    let mut hasher = Hasher::new();
    hasher.field(source.name().as_bytes());
    for text in [Some(user_data), meta_data.as_ref(), network_config.as_ref()] {
        hasher.field(&[u8::from(text.is_some())]);
        hasher.field(text.map_or(&[][..], |text| text.as_bytes()));
    }
    hasher.field(default.as_bytes());
    public_keys.iter().for_each(|key| hasher.field(key.as_bytes()));
    hasher.finish().hex()
}

fn directory(data: &str) -> String {
    format!("{}/ksos/config", data.trim_end_matches('/'))
}

impl State {
    /// Returns the state of a configuration whose files are not written yet.
    pub fn begin(found: Found, instance_id: String, digest: String, boot: u64) -> Self {
        State { format: FORMAT, found, instance_id, digest, applied_at_boot: boot, complete: false }
    }

    /// Reads the state from the data partition mounted at `data`; `None` before the first configuration.
    ///
    /// # Errors
    /// A sentence, if there is a file but no state in it.
    pub fn read(sys: &dyn Sys, data: &str) -> Result<Option<Self>, String> {
        let path = format!("{}/state.json", directory(data));
        let bytes = match sys.read(&path, STATE_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        // The reason without the text: it holds secrets.
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|error| format!("{path}: not readable at line {}, column {}", error.line(), error.column()))?;
        if state.format != FORMAT {
            return Err(format!("{path} has format {}; this runtime reads format {FORMAT}", state.format));
        }
        Ok(Some(state))
    }

    /// Makes this the configuration in force.
    pub fn write(&self, sys: &dyn Sys, data: &str) -> sys::Result<()> {
        let directory = directory(data);
        sys.make_directory(&directory, 0o700)?;
        sys.set_mode(&directory, 0o700)?;
        let path = format!("{directory}/state.json");
        let text = serde_json::to_vec(self).map_err(|error| sys::Error::stated("write", &path, error.to_string()))?;
        sys.replace(&path, &text, 0o600)
    }
}

/// Makes what is written once be written again at the next boot: the files it wrote are gone. A state that cannot be
/// read is left for stage 45 to report.
pub fn write_again(sys: &dyn Sys, data: &str) -> sys::Result<()> {
    match State::read(sys, data) {
        Ok(Some(state)) if state.complete => State { complete: false, ..state }.write(sys, data),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn survives_a_round_and_only_root_reads_it() {
        let sys = Double::new();
        assert_eq!(State::read(&sys, "/data"), Ok(None));
        let state = State::begin(Found::empty(Source::Data, "/x"), "i-1".to_owned(), "d".to_owned(), 4);
        state.write(&sys, "/data/").expect("written");
        assert_eq!(State::read(&sys, "/data"), Ok(Some(state)));
        assert_eq!((sys.mode("/data/ksos/config"), sys.mode("/data/ksos/config/state.json")), (0o700, 0o600));
    }

    #[test]
    fn damaged_and_foreign_states_are_errors_that_show_nothing_of_them() {
        let sys = Double::new();
        for text in ["", "{", "{\"format\":1,\"found\":\"SECRET\"}", "\0\0\0"] {
            sys.put("/data/ksos/config/state.json", text);
            let error = State::read(&sys, "/data").expect_err("damaged");
            assert!(error.contains("not readable at line") && !error.contains("SECRET"), "{error}");
        }
        let mut state = State::begin(Found::empty(Source::Data, "/x"), String::new(), String::new(), 1);
        state.format = 9;
        state.write(&sys, "/data").expect("written");
        assert!(State::read(&sys, "/data").expect_err("foreign").contains("has format 9"));
    }

    #[test]
    fn every_part_counts_except_the_place() {
        let base = Found::empty(Source::Nocloud, "/dev/sda1");
        let some = |text: &str| Some(text.to_owned());
        let others = [
            Found { source: Source::Ec2, ..base.clone() },
            Found { user_data: "x".to_owned(), ..base.clone() },
            Found { meta_data: some("x"), ..base.clone() },
            Found { meta_data: some(""), ..base.clone() },
            Found { network_config: some("x"), ..base.clone() },
            Found { public_keys: vec!["x".to_owned()], ..base.clone() },
        ];
        let mut digests: Vec<String> = others.iter().map(|found| digest(found, "")).collect();
        digests.extend([digest(&base, ""), digest(&base, "x")]);
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count);
        assert_eq!(digest(&Found { place: "/dev/sdb".to_owned(), ..base.clone() }, ""), digest(&base, ""));
    }
}
