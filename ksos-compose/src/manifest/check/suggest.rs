//! Nearest valid names.

/// Returns the candidate nearest to `text` when it is near enough to be a slip: at most a third of its letters
/// changed, or one a prefix of the other.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(text);
    let score = |candidate: &'a str| {
        let other = fold(candidate);
        let distance = strsim::damerau_levenshtein(&folded, &other);
        let longest = folded.chars().count().max(other.chars().count());
        let prefix =
            folded.len() >= 3 && other.len() >= 3 && (other.starts_with(&folded) || folded.starts_with(&other));
        (prefix || distance <= 1.max(longest / 3)).then_some((distance, candidate))
    };
    let text_is_long = text.chars().count() > 200;
    candidates.into_iter().filter(|_| !text_is_long).filter_map(score).min().map(|(_, candidate)| candidate)
}

/// Returns the text without what people write in several ways: case, `_` for `-`, and a plural `s`.
fn fold(text: &str) -> String {
    let lower = text.to_lowercase().replace(['_', ' '], "-");
    match lower.strip_suffix('s') {
        Some(stem) if stem.len() >= 3 => stem.to_owned(),
        _ => lower,
    }
}
