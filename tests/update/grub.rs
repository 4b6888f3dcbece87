//! A model of `firmware/grub/grub.cfg` on what the EFI system partition holds: which slot it tries first, and what it
//! writes. Works on bytes, with no code of the node: environment blocks are read and changed as GRUB 2.12 does
//! (`grub-core/lib/envblk.c`, `grub-core/commands/loadenv.c`). `boots.rs` compares it with the real script.

use ksos_formats::bootstate::Slot;

/// An environment block as it is on the partition; `None`: there is no such file.
pub type File = Option<Vec<u8>>;

/// What the script reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// `state1/boot.env` and `state2/boot.env`.
    pub copies: [File; 2],
    /// `slot-a/confirmed.env` and `slot-b/confirmed.env`.
    pub marks: [File; 2],
}

/// What the script does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The slot that it tries first; the other one is tried if that does not start.
    pub first: Slot,
    /// Copies that it writes before that, in order: which one, and its new content. Nothing is flushed between them.
    pub writes: Vec<(usize, Vec<u8>)>,
}

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// `find_next_line`: the start of the line after the one that `at` is in.
fn next_line(block: &[u8], mut at: usize) -> usize {
    while at < block.len() && block[at] != b'\n' {
        at += if block[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// `grub_envblk_iterate`: names and values in their order.
fn iterate(block: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut found, mut at) = (Vec::new(), SIGNATURE.len());
    while at < block.len() {
        if block[at] != b'#' {
            let Some(equals) = block[at..].iter().position(|byte| *byte == b'=') else { break };
            let name = block[at..at + equals].to_vec();
            at += equals + 1;
            let mut value = Vec::new();
            while at < block.len() && block[at] != b'\n' {
                if block[at] == b'\\' {
                    at += 1;
                }
                value.extend(block.get(at));
                at += 1;
            }
            if at >= block.len() {
                break;
            }
            found.push((name, value));
        }
        at = next_line(block, at);
    }
    found
}

/// The variables of a boot state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Variables([Vec<u8>; 5]);

const NAMES: [&[u8]; 5] = [b"gen", b"act", b"try", b"left", b"end"];

impl Variables {
    fn get(&self, name: &str) -> &[u8] {
        let index = NAMES.iter().position(|known| *known == name.as_bytes()).expect("a known name");
        &self.0[index]
    }

    /// The expression of `ksos_load`, and `gen` = `end`.
    fn is_valid(&self) -> bool {
        let generation = self.get("gen");
        let number = matches!(generation, [b'0'] | [b'1'..=b'9', ..])
            && generation.len() <= 19
            && generation.iter().all(u8::is_ascii_digit);
        let trial = match (self.get("act"), self.get("try"), self.get("left")) {
            (b"a" | b"b", b"-", b"0") => true,
            (b"a", b"b", left) | (b"b", b"a", left) => matches!(left, [b'0'..=b'3']),
            _ => false,
        };
        generation == self.get("end") && number && trial
    }
}

/// `load_env --skip-sig --file F names...`; `None`: it fails.
fn load_env(file: &File, names: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    let block = file.as_ref().filter(|block| block.starts_with(SIGNATURE))?;
    let mut values = vec![Vec::new(); names.len()];
    for (name, value) in iterate(block) {
        if let Some(index) = names.iter().position(|known| **known == *name) {
            // Variables are C strings.
            values[index] = value.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        }
    }
    Some(values)
}

/// `ksos_load`.
fn load(file: &File) -> Option<Variables> {
    let values = load_env(file, &NAMES)?;
    Some(Variables(values.try_into().expect("one value for each name"))).filter(Variables::is_valid)
}

/// `grub_envblk_set`: `None` when there is no room, or the block has no end.
fn set(block: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Option<()> {
    let size = block.len();
    let end = block.iter().rposition(|byte| *byte != b'#').map_or(0, |last| last + 1);
    if end == 0 || block[end - 1] != b'\n' {
        return None;
    }
    let mut at = SIGNATURE.len();
    while at + name.len() + 1 < size {
        if block[at..].starts_with(name) && block[at + name.len()] == b'=' {
            let start = at + name.len() + 1;
            let stop = next_line(block, start) - 1;
            if stop >= size {
                return None;
            }
            block.splice(start..stop, value.iter().copied());
            if block.len() > size && block[size..].iter().any(|byte| *byte != b'#') {
                return None;
            }
            block.resize(size, b'#');
            return Some(());
        }
        at = next_line(block, at);
    }
    let line = [name, b"=", value, b"\n"].concat();
    if size - end < line.len() {
        return None;
    }
    block[end..end + line.len()].copy_from_slice(&line);
    Some(())
}

/// `save_env --file F gen act try left end`: the new content, if it is written.
fn save_env(file: &File, variables: &Variables) -> File {
    let mut block = file.clone().filter(|block| block.starts_with(SIGNATURE))?;
    for (name, value) in NAMES.iter().zip(&variables.0) {
        set(&mut block, name, value)?;
    }
    Some(block)
}

fn slot(name: &[u8]) -> Slot {
    if name == b"b" { Slot::B } else { Slot::A }
}

/// `ksos_confirmed`.
fn is_confirmed(mark: &File) -> bool {
    load_env(mark, &[b"ok"]).is_some_and(|values| values[0] == b"yes")
}

/// Runs the script up to its choice.
pub fn decide(esp: &Esp) -> Decision {
    let Some(source) = (0..2).find(|copy| load(&esp.copies[*copy]).is_some()) else {
        let first = if is_confirmed(&esp.marks[1]) && !is_confirmed(&esp.marks[0]) { Slot::B } else { Slot::A };
        return Decision { first, writes: Vec::new() };
    };
    let mut variables = load(&esp.copies[source]).expect("it was valid");
    let active = slot(variables.get("act"));
    let trial = variables.get("try").to_vec();
    let left: &[u8] = match variables.get("left") {
        b"3" => b"2",
        b"2" => b"1",
        b"1" => b"0",
        _ => return Decision { first: active, writes: Vec::new() },
    };
    if trial == b"-" {
        return Decision { first: active, writes: Vec::new() };
    }
    variables.0[3] = left.to_vec();
    let saved = [0, 1].map(|copy| save_env(&esp.copies[copy], &variables));
    let readable = saved[source].is_some() && load(&saved[source]).as_ref() == Some(&variables);
    let writes = saved.into_iter().enumerate().filter_map(|(copy, block)| Some((copy, block?))).collect();
    Decision { first: if readable { slot(&trial) } else { active }, writes }
}

#[cfg(test)]
mod tests {
    use ksos_formats::bootstate::{BootState, Mark};

    use super::*;

    fn esp(copies: [&[u8]; 2]) -> Esp {
        Esp { copies: copies.map(|copy| Some(copy.to_vec())), marks: [None, None] }
    }

    /// What the node takes for valid the script does too, with the same values, and nothing else.
    #[test]
    fn model_and_node_agree_on_what_is_valid() {
        let state = BootState { generation: 41, active: Slot::A, trial: Some(3) };
        let good = state.encode();
        let (mut valid, mut checked) = (0, 0);
        for index in 0..120 {
            for byte in 0..=255_u8 {
                let mut block = good;
                block[index] = byte;
                let ours = BootState::decode(&block).ok();
                let theirs = load(&Some(block.to_vec()));
                checked += 1;
                valid += usize::from(ours.is_some());
                if let Some(state) = ours {
                    let theirs = theirs.expect("the script takes what the node takes");
                    assert_eq!(theirs.get("act"), state.active.name().as_bytes());
                    assert_eq!(theirs.get("left"), state.trial.unwrap_or(0).to_string().as_bytes());
                }
            }
        }
        assert!(valid > 0 && checked == 120 * 256);
    }

    #[test]
    fn a_try_is_used_up_in_both_copies_before_it_is_made() {
        let state = BootState { generation: 9, active: Slot::B, trial: Some(3) };
        let decision = decide(&esp([&state.encode(), &state.encode()]));
        assert_eq!(decision.first, Slot::A);
        let used = BootState { trial: Some(2), ..state }.encode().to_vec();
        assert_eq!(decision.writes, [(0, used.clone()), (1, used)]);
        let over = BootState { trial: Some(0), ..state };
        assert_eq!(decide(&esp([&over.encode(), &over.encode()])), Decision { first: Slot::B, writes: Vec::new() });
    }

    #[test]
    fn a_copy_that_cannot_be_changed_keeps_the_trial_from_being_tried() {
        let trial = BootState { generation: 9, active: Slot::A, trial: Some(1) };
        // Valid, but without the padding that save_env looks for.
        let mut full = trial.encode().to_vec();
        full[511] = b'\n';
        let decision = decide(&esp([&full, &[0xff; 512]]));
        assert_eq!(decision.first, Slot::B, "a last line feed is an end");
        full[511] = b'x';
        let decision = decide(&esp([&full, &[0xff; 512]]));
        assert_eq!(decision, Decision { first: Slot::A, writes: Vec::new() });
    }

    #[test]
    fn marks_count_only_without_a_state() {
        let mark = |confirmed| Some(Mark { confirmed }.encode().to_vec());
        let junk = Some(vec![0xff; 512]);
        for (marks, first) in [
            ([mark(true), mark(false)], Slot::A),
            ([mark(false), mark(true)], Slot::B),
            ([mark(true), mark(true)], Slot::A),
            ([mark(false), mark(false)], Slot::A),
            ([None, mark(true)], Slot::B),
            ([junk.clone(), junk.clone()], Slot::A),
        ] {
            let esp = Esp { copies: [junk.clone(), None], marks: marks.clone() };
            assert_eq!(decide(&esp), Decision { first, writes: Vec::new() });
            let state = BootState { generation: 1, active: first.other(), trial: None }.encode().to_vec();
            assert_eq!(decide(&Esp { copies: [junk.clone(), Some(state)], marks }).first, first.other());
        }
    }
}
