//! Debian version numbers and their order (deb-version(7); Debian Policy, section 5.6.12).

use std::cmp::Ordering;

/// A version split in its three parts: `[epoch:]upstream[-revision]`.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

fn split(version: &str) -> Parts<'_> {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    // "The absence of a debian_revision is equivalent to a debian_revision of 0."
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    Parts { epoch: epoch.parse().unwrap_or(u64::MAX), upstream, revision }
}

/// Compares two versions; neither needs to be valid, but only valid ones have a documented order.
pub fn compare(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    let (left, right) = (split(left), split(right));
    left.epoch
        .cmp(&right.epoch)
        .then_with(|| compare_part(left.upstream, right.upstream))
        .then_with(|| compare_part(left.revision, right.revision))
}

/// Compares alternating runs of non-digits and digits, from left to right.
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        let order = compare_text(&mut left, &mut right).then_with(|| compare_number(&mut left, &mut right));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// "The lexical comparison is a comparison of ASCII values modified so that all the letters sort earlier than all the
/// non-letters and so that a tilde sorts before anything, even the end of a part."
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

fn compare_text(left: &mut &[u8], right: &mut &[u8]) -> Ordering {
    loop {
        let text = |part: &[u8]| part.first().copied().filter(|byte| !byte.is_ascii_digit());
        let (a, b) = (text(left), text(right));
        if a.is_none() && b.is_none() {
            return Ordering::Equal;
        }
        let order = weight(a).cmp(&weight(b));
        if order != Ordering::Equal {
            return order;
        }
        *left = &left[1..];
        *right = &right[1..];
    }
}

/// Takes the leading digits off both and compares their values, of whatever length.
fn compare_number(left: &mut &[u8], right: &mut &[u8]) -> Ordering {
    let (a, b) = (take_digits(left), take_digits(right));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Returns the leading digits without their leading zeros.
fn take_digits<'a>(part: &mut &'a [u8]) -> &'a [u8] {
    let count = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = part.split_at(count);
    *part = rest;
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    &digits[zeros..]
}

/// Tells whether `version` is well-formed (Debian Policy, section 5.6.12).
pub fn is_valid(version: &str) -> bool {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (Some(epoch), rest),
        None => (None, version),
    };
    let (upstream, revision) = match rest.rsplit_once('-') {
        Some((upstream, revision)) => (upstream, Some(revision)),
        None => (rest, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'~');
    epoch.is_none_or(|epoch| epoch.bytes().all(|byte| byte.is_ascii_digit()) && epoch.parse::<u32>().is_ok())
        && !upstream.is_empty()
        && upstream.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b':'))
        && revision.is_none_or(|revision| !revision.is_empty() && revision.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a foreign tool is the oracle")]

    use super::*;

    /// Older, newer.
    const ASCENDING: [(&str, &str); 26] = [
        ("1.0~~", "1.0~~a"),
        ("1.0~~a", "1.0~"),
        ("1.0~", "1.0"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0b"),
        ("1.0a", "1.0+"),
        ("1.0+", "1.0-0.1+x+y-1"),
        ("1.0-1~deb13u1", "1.0-1"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-1+b1", "1.0-1+deb13u1"),
        ("1.0-1+deb13u1", "1.0-1.1"),
        ("1.0-1.1", "1.0-2"),
        ("1.0", "1.0-0.1"),
        ("0", "0.1"),
        ("9", "10"),
        ("99999999999999999999998", "99999999999999999999999"),
        ("9999", "1:0"),
        ("1:9", "2:0"),
        ("1.2.9", "1.2.10"),
        ("1.2.10", "1.2.10.1"),
        ("1.2a", "1.2.1"),
        ("6.12.107-1", "6.12.117-1"),
        ("1.7.24~ds1-4", "1.7.24~ds1-6+b4"),
        ("1.7.24~ds1-6+b4", "1.7.24-1"),
        ("2024a-0+deb12u1", "2024b-0+deb12u1"),
        ("1.0-a", "1.0-+"),
    ];

    const EQUAL: [(&str, &str); 5] =
        [("1.0", "1.0"), ("0:1.0", "1.0"), ("1.0", "1.0-0"), ("1.00", "1.0"), ("1.0-01", "1.0-1")];

    #[test]
    fn order_follows_deb_version() {
        for (older, newer) in ASCENDING {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} < {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{newer} > {older}");
        }
        for (left, right) in EQUAL {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} = {right}");
        }
    }

    #[test]
    fn dpkg_agrees() {
        let holds = |left: &str, operator: &str, right: &str| {
            std::process::Command::new("dpkg").args(["--compare-versions", left, operator, right]).status()
        };
        if holds("1", "eq", "1").is_err() {
            let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
            assert!(!required, "dpkg is not installed");
            println!("skipped: dpkg is not installed");
            return;
        }
        for (older, newer) in ASCENDING {
            assert!(holds(older, "lt", newer).unwrap().success(), "{older} < {newer}");
        }
        for (left, right) in EQUAL {
            assert!(holds(left, "eq", right).unwrap().success(), "{left} = {right}");
        }
    }

    #[test]
    fn malformed_versions_are_refused() {
        for version in ["1.0", "1:1.0-1+b1", "0~git20240101.abc-1~bpo13+1", "1-2-3", "1:2:3-1"] {
            assert!(is_valid(version), "{version}");
        }
        for version in ["", "a:1", "1.0-", "-1", "1.0 1", "1.0_1", "1:", "99999999999:1", "1.0/2", "é"] {
            assert!(!is_valid(version), "{version}");
        }
    }

    proptest::proptest! {
        #[test]
        fn order_is_total(a in "[0-9a~+.]{0,6}(-[0-9a~+]{1,3})?", b in "[0-9a~+.]{0,6}", c in "[0-9a~+.]{0,6}") {
            proptest::prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                proptest::prop_assert!(compare(&a, &c) != Ordering::Greater);
            }
        }
    }
}
