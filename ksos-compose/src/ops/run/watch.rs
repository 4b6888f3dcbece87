//! Follows the serial console: lines of the runtime (`ksos: ...`), of the kernel, of GRUB and of the firmware.

/// Longest line that is looked at, in bytes; the rest of a longer one is dropped.
const LINE_LIMIT: usize = 4096;

/// A line that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `ksos: ready name=value ...`
    Ready(Vec<(String, String)>),
    /// `ksos: degraded reason="..."`
    Degraded(String),
    /// `ksos: emergency reason="..."`
    Emergency(String),
    /// `Kernel panic - not syncing: ...`
    Panic(String),
    /// The firmware found no boot entry that starts, or GRUB no slot.
    NoBoot(String),
    /// A line with the text that is waited for.
    Line(String),
}

/// Cuts serial output into lines and recognises those that mean something.
#[derive(Debug, Default)]
pub struct Watcher {
    line: Vec<u8>,
    last: String,
    wanted: Option<String>,
}

impl Watcher {
    /// Returns a watcher that also reports lines that hold `text`.
    pub fn for_line(text: &str) -> Self {
        Watcher { wanted: Some(text.to_owned()), ..Watcher::default() }
    }

    /// Takes more output and returns what its complete lines mean, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = plain(&self.line);
                    self.line.clear();
                    events.extend(event(&line));
                    if self.wanted.as_ref().is_some_and(|wanted| line.contains(wanted)) {
                        events.push(Event::Line(line.clone()));
                    }
                    if !line.is_empty() {
                        self.last = line;
                    }
                }
                _ if self.line.len() < LINE_LIMIT => self.line.push(*byte),
                _ => {}
            }
        }
        events
    }

    /// Returns the last line that was not empty, the unfinished one included.
    pub fn last_line(&self) -> String {
        let unfinished = plain(&self.line);
        if unfinished.is_empty() { self.last.clone() } else { unfinished }
    }
}

/// Returns a line without terminal control sequences (ECMA-48, section 5.4), control characters and outer spaces.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut result = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.peek() == Some(&'[') => {
                characters.next();
                // Parameters and intermediate bytes, up to the final byte.
                while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {}
            }
            '\u{1b}' => drop(characters.next()),
            character if character.is_control() => {}
            character => result.push(character),
        }
    }
    result.trim().to_owned()
}

/// Recognises a line. Those of the runtime must begin with `ksos: `: what services print has their name before it.
fn event(line: &str) -> Option<Event> {
    if let Some(text) = line.strip_prefix("ksos: ") {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let reason = || {
            let fields = fields(rest);
            let reason = fields.into_iter().find(|(name, _)| name == "reason").map(|(_, value)| value);
            reason.unwrap_or_else(|| rest.to_owned())
        };
        return match word {
            "ready" => Some(Event::Ready(fields(rest))),
            "degraded" => Some(Event::Degraded(reason())),
            "emergency" => Some(Event::Emergency(reason())),
            // GRUB repeats the line when its console is the serial port as well.
            _ if text.starts_with("no system slot boots") => Some(Event::NoBoot(text.to_owned())),
            _ => None,
        };
    }
    if let Some(at) = line.find("Kernel panic - not syncing") {
        return Some(Event::Panic(line[at..].to_owned()));
    }
    line.starts_with("BdsDxe: No bootable option").then(|| Event::NoBoot(line.to_owned()))
}

/// Reads `name=value` words; a value may be in double quotes, with `\"` and `\\` inside.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let name = &rest[..end];
        let Some(value) = rest[end..].strip_prefix('=') else {
            rest = rest[end..].trim_start();
            continue;
        };
        let (value, left) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find(' ').unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        fields.push((name.to_owned(), value));
        rest = left.trim_start();
    }
    fields
}

/// Reads to the closing quote; returns the value and what follows.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, character)| character)),
            character => value.push(character),
        }
    }
    (value, "")
}
