//! What keys there are, and what stands behind each: tables that the reader, the command line's reader and the JSON
//! Schema share.

use super::forms::Form;

/// A key of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Other spellings.
    pub(super) aliases: &'static [&'static str],
    pub(super) kind: Kind,
    /// What it says, for the schema.
    #[cfg(feature = "schema")]
    pub(super) about: &'static str,
}

/// What stands behind a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A decimal number.
    Integer { min: u64, max: u64 },
    /// A text.
    Text(Form),
    /// A text that no message and no log shows.
    Secret(Form),
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A number of seconds, or a number with `s`, `m`, `h` or `d`.
    Duration,
    /// Bytes per second: a number, or one with a unit.
    Rate,
    /// Permission bits, octal.
    Permissions,
    /// A list of texts, or one text with commas between.
    Texts(Form),
    /// A list.
    List(&'static Kind),
    /// A mapping with these keys.
    Section(&'static Table),
    /// A mapping with names of one's own.
    Map(Form, &'static Kind),
    /// The network: either of two forms.
    Network,
}

/// The keys of a mapping.
#[derive(Debug)]
pub(super) struct Table {
    /// What the mapping is, in messages.
    pub(super) what: &'static str,
    pub(super) keys: &'static [Key],
    /// Keys that others understand, and that are passed over with a warning here.
    pub(super) unsupported: &'static [&'static str],
    /// Keys that must be there.
    pub(super) required: &'static [&'static str],
}

impl Table {
    /// Finds a key by its name or another spelling.
    pub(super) fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name || key.aliases.contains(&name))
    }
}

/// Makes a key.
pub(super) const fn key(name: &'static str, kind: Kind, about: &'static str) -> Key {
    aliased(name, &[], kind, about)
}

/// Makes a key with other spellings.
#[cfg_attr(not(feature = "schema"), expect(unused_variables, reason = "only the schema describes keys"))]
pub(super) const fn aliased(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    about: &'static str,
) -> Key {
    Key {
        name,
        aliases,
        kind,
        #[cfg(feature = "schema")]
        about,
    }
}
