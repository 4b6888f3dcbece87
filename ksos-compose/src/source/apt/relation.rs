//! Relations between packages (Debian Policy, section 7.1): `a (>= 1) | b:any, c [amd64]`.

use std::cmp::Ordering;

use super::{packages, version};

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

/// One alternative of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The package.
    pub name: &'a str,
    /// What stands after the colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// The version asked for.
    pub constraint: Option<(Operator, &'a str)>,
}

/// A text that is not a relation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a relation to a package")]
pub struct RelationError(pub String);

impl Operator {
    fn symbol(self) -> &'static str {
        match self {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        }
    }

    fn accepts(self, order: Ordering) -> bool {
        match self {
            Operator::Earlier => order.is_lt(),
            Operator::EarlierOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::LaterOrEqual => order.is_ge(),
            Operator::Later => order.is_gt(),
        }
    }
}

impl Relation<'_> {
    /// Tells whether a package of this name in `version` is meant.
    pub fn accepts(&self, version: &str) -> bool {
        self.constraint.is_none_or(|(operator, bound)| operator.accepts(version::compare(version, bound)))
    }
}

impl std::fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = self.constraint {
            write!(f, " ({} {version})", operator.symbol())?;
        }
        Ok(())
    }
}

/// Parses a list of relations, each a list of alternatives; those of other architectures than `architecture` are left out.
///
/// # Errors
/// [`RelationError`].
pub fn parse<'a>(text: &'a str, architecture: &str) -> Result<Vec<Vec<Relation<'a>>>, RelationError> {
    let mut relations = Vec::new();
    for group in text.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        let mut alternatives = Vec::new();
        for alternative in group.split('|') {
            alternatives.extend(parse_one(alternative.trim(), architecture)?);
        }
        if !alternatives.is_empty() {
            relations.push(alternatives);
        }
    }
    Ok(relations)
}

fn parse_one<'a>(text: &'a str, architecture: &str) -> Result<Option<Relation<'a>>, RelationError> {
    let error = || RelationError(text.chars().take(80).collect());
    let (rest, applies) = match text.split_once('[') {
        None => (text, true),
        Some((rest, list)) => (rest, applies(list.trim().strip_suffix(']').ok_or_else(error)?, architecture)),
    };
    let (name, constraint) = match rest.split_once('(') {
        None => (rest, None),
        Some((name, bound)) => {
            (name, Some(parse_constraint(bound.trim().strip_suffix(')').ok_or_else(error)?).ok_or_else(error)?))
        }
    };
    let (name, qualifier) = match name.trim().split_once(':') {
        None => (name.trim(), None),
        Some((name, qualifier)) => (name, Some(qualifier)),
    };
    if !packages::is_name(name) || qualifier.is_some_and(|qualifier| !packages::is_name(qualifier)) {
        return Err(error());
    }
    Ok(applies.then_some(Relation { name, qualifier, constraint }))
}

fn parse_constraint(text: &str) -> Option<(Operator, &str)> {
    let text = text.trim();
    // Longest first; the single `<` and `>` are obsolete and mean `<=` and `>=` (deb-control(5)).
    let operators = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierOrEqual),
        (">>", Operator::Later),
        (">=", Operator::LaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::EarlierOrEqual),
        (">", Operator::LaterOrEqual),
    ];
    let find = |(symbol, operator): (&str, Operator)| Some((operator, text.strip_prefix(symbol)?.trim()));
    operators.into_iter().find_map(find).filter(|(_, bound)| version::is_valid(bound))
}

/// Tells whether an architecture list (`amd64 arm64` or `!amd64`) includes `architecture`.
fn applies(list: &str, architecture: &str) -> bool {
    let mut names = list.split_whitespace();
    if list.trim_start().starts_with('!') {
        !names.any(|name| name.strip_prefix('!') == Some(architecture))
    } else {
        names.any(|name| name == architecture || name == "any")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        let groups = parse(text, "amd64").unwrap();
        let group = |group: &Vec<Relation<'_>>| group.iter().map(Relation::to_string).collect::<Vec<_>>().join(" | ");
        groups.iter().map(group).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn relations_are_read() {
        for (text, expected) in [
            ("", ""),
            ("a1", "a1"),
            ("libc6 (>= 2.41), perl:any ,", "libc6 (>= 2.41), perl:any"),
            ("aa(<<1)|bb ( = 2 ) | cc", "aa (<< 1) | bb (= 2) | cc"),
            ("aa [arm64], bb [amd64], cc [!amd64] | dd [!arm64]", "bb, dd"),
            ("aa (< 1), bb (> 1)", "aa (<= 1), bb (>= 1)"),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_relations_are_refused() {
        for text in
            ["a b", "aa (>= 1", "aa (1)", "aa (>= )", "aa (>= 1 2)", "aa | ", "${misc:Depends}", "aa [amd64", "-a"]
        {
            assert!(parse(text, "amd64").is_err(), "{text}");
        }
    }

    #[test]
    fn constraints_compare() {
        for (bound, accepted, refused) in [
            ("<< 2", "1", "2"),
            ("<= 2", "2", "2.1"),
            ("= 2", "2", "2-1"),
            (">= 2", "2", "2~rc1"),
            (">> 2", "2-1", "2"),
        ] {
            let text = format!("aa ({bound})");
            let relation = parse(&text, "amd64").unwrap()[0][0];
            assert!(relation.accepts(accepted) && !relation.accepts(refused), "{bound}");
        }
    }
}
