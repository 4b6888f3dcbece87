//! What is wrong with a document, and where; and which known name an unknown one was meant to be.

use std::fmt;

/// A place in a text: both numbers from 1, the column and the length in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// Characters on that line; `None` when they are not known.
    pub length: Option<usize>,
}

/// One thing that is wrong with a document, or odd. Never holds the value of a secret key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Characters on that line that it is about; `None` when they are not known.
    pub length: Option<usize>,
    /// The fact, in one line.
    pub message: String,
    /// A suggestion.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        let Place { line, column, length } = place;
        Diagnostic { line, column, length, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One line: `line 3, column 7: ...`, with the hint in parentheses.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Returns the known name that `name` most likely was meant to be, when one is near enough.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let name = plain(name);
    let limit = (name.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|known| (distance(&name, &plain(known)), known));
    distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// Number of insertions, deletions, replacements and swaps of neighbours that lead from one text to the other
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    // Names are short; a long text is none, and must not cost its square.
    const LONGEST: usize = 64;
    let a: Vec<char> = a.chars().take(LONGEST).collect();
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        let known = ["hostname", "network", "ssh_authorized_keys", "ntp"];
        assert_eq!(nearest("hostnme", known), Some("hostname"));
        assert_eq!(nearest("netwrok", known), Some("network"));
        assert_eq!(nearest("ssh-authorized-keys", known), Some("ssh_authorized_keys"));
        assert_eq!(nearest("HostName", known), Some("hostname"));
        assert_eq!(nearest("completely-else", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
