//! Shell patterns as kmod uses them for device aliases (fnmatch(3) without flags).

/// Returns whether `text` matches `pattern`: `*`, `?`, `[a-z]`, `[!a]`, and `\` before a literal character.
///
/// Takes time proportional to the product of the lengths, whatever the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut position) = (0, 0);
    // Where to go back to when a literal does not match: after the last `*`, one character further in the text.
    let mut retry: Option<(usize, usize)> = None;
    while position < text.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at + 1, position));
            at += 1;
            continue;
        }
        if let Some(next) = text.get(position).and_then(|byte| one(pattern, at, *byte)) {
            (at, position) = (next, position + 1);
            continue;
        }
        let Some((after_star, start)) = retry else { return false };
        retry = Some((after_star, start + 1));
        (at, position) = (after_star, start + 1);
    }
    pattern.get(at..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// Matches one byte at `at`; returns where the pattern goes on.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => set(pattern, at + 1, byte),
        b'\\' => (pattern.get(at + 1) == Some(&byte)).then_some(at + 2),
        literal => (literal == byte).then_some(at + 1),
    }
}

/// Matches a bracket expression whose first byte after `[` is at `at`.
fn set(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    let first = if negated { at + 1 } else { at };
    let (mut here, mut found) = (first, false);
    loop {
        let low = *pattern.get(here)?;
        if low == b']' && here > first {
            return (found != negated).then_some(here + 1);
        }
        let high = pattern.get(here + 2).copied().filter(|high| *high != b']');
        if let Some(high) = high.filter(|_| pattern.get(here + 1) == Some(&b'-')) {
            found |= (low..=high).contains(&byte);
            here += 3;
        } else {
            found |= low == byte;
            here += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("pci:v00001AF4d00001000sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", true),
            ("pci:v00001AF4d00001001*", "pci:v00001AF4d00001000sv0", false),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5567d0100dc00dsc00dp00ic08isc06ip50in00", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0099*",
                "cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0099,",
                true,
            ),
            ("a[0-9]c", "a5c", true),
            ("a[0-9]c", "axc", false),
            ("a[!0-9]c", "axc", true),
            ("a[]]c", "a]c", true),
            ("a[0-", "a0", false),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a?", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_pattern_of_many_stars_ends() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}
