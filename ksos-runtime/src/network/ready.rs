//! When services that wait for the network may start. Pure.

/// Without a carrier anywhere, the wait ends after this time, in milliseconds.
pub const DARK_MS: u64 = 5000;

/// An entry of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// Nothing waits for it.
    pub optional: bool,
    /// Whether it has what it asks for.
    pub satisfied: bool,
}

/// What there is to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Time since the process started, in milliseconds.
    pub elapsed_ms: u64,
    /// Longest wait, in milliseconds.
    pub wait_ms: u64,
    /// Time for which no interface has had a carrier, in milliseconds; `None` when one has.
    pub dark_ms: Option<u64>,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The wait is over, for this reason.
    Ready(String),
    /// It goes on, at most this many milliseconds.
    Wait(u64),
}

/// Judges.
pub fn judge(view: &View) -> Verdict {
    let missing: Vec<&str> = view
        .entries
        .iter()
        .filter(|entry| !entry.optional && !entry.satisfied)
        .map(|entry| entry.id.as_str())
        .collect();
    if missing.is_empty() {
        return Verdict::Ready("every interface that something waits for is set up".to_owned());
    }
    if view.elapsed_ms >= view.wait_ms {
        return Verdict::Ready(format!("after {} ms without {}", view.wait_ms, missing.join(", ")));
    }
    let rest = view.wait_ms - view.elapsed_ms;
    match view.dark_ms {
        Some(dark) if dark >= DARK_MS => Verdict::Ready(format!("no interface has had a carrier for {DARK_MS} ms")),
        Some(dark) => Verdict::Wait(rest.min(DARK_MS - dark)),
        None => Verdict::Wait(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, optional: bool, satisfied: bool) -> Entry {
        Entry { id: id.to_owned(), optional, satisfied }
    }

    #[test]
    fn the_wait_ends_with_addresses_time_or_darkness() {
        let view = |elapsed_ms, dark_ms, entries: &[Entry]| {
            judge(&View { elapsed_ms, wait_ms: 15_000, dark_ms, entries: entries.to_vec() })
        };
        let (lan, spare) = (entry("lan", false, false), entry("spare", true, false));
        assert_eq!(view(0, None, std::slice::from_ref(&lan)), Verdict::Wait(15_000));
        assert_eq!(view(1000, Some(1000), std::slice::from_ref(&lan)), Verdict::Wait(4000));
        assert_eq!(view(12_000, Some(1000), std::slice::from_ref(&lan)), Verdict::Wait(3000));
        let dark = "no interface has had a carrier for 5000 ms".to_owned();
        assert_eq!(view(5000, Some(5000), &[lan.clone(), spare.clone()]), Verdict::Ready(dark));
        let late = "after 15000 ms without lan".to_owned();
        assert_eq!(view(15_000, None, &[lan, spare.clone()]), Verdict::Ready(late));
        let good = "every interface that something waits for is set up".to_owned();
        assert_eq!(view(0, None, &[entry("lan", false, true), spare]), Verdict::Ready(good));
    }
}
