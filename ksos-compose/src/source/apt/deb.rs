//! Reads `.deb` files (deb(5)): an `ar` archive of `debian-binary`, `control.tar` and `data.tar`, in this order.
//!
//! ```text
//! "!<arch>\n"
//! name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n"  content, padded to an even length     for each member
//! ```
//!
//! Control information is read whole (within limits); `data.tar` streams. What a header declares is never believed: a
//! member that ends early, and a decompressed control archive or file that is too large, are errors.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use super::codec::{Compression, Limited};
use super::deb822;

/// The largest control archive, compressed or not, and the largest file in it, in bytes.
const CONTROL_LIMIT: u64 = 32 << 20;

/// A `.deb` that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// Not a `.deb` at all.
    #[error("not a Debian package: it starts with {found:?}")]
    NotAPackage {
        /// The first bytes.
        found: String,
    },
    /// It ends early.
    #[error("the package ends in {place}")]
    Truncated {
        /// Where.
        place: String,
    },
    /// A member header is damaged.
    #[error("damaged member header at byte {offset}: {cause}")]
    Header {
        /// Offset from the start of the file, in bytes.
        offset: u64,
        /// What is wrong.
        cause: String,
    },
    /// Another member than the one that must come here.
    #[error("expected member {expected}, found {found}")]
    Member {
        /// What must come.
        expected: &'static str,
        /// What is there: a name, or `the end`.
        found: String,
    },
    /// A format version other than 2.x.
    #[error("package format {0:?}; only 2.x is known")]
    Version(String),
    /// Compressed with something else than gzip, xz or zstd.
    #[error("member {0}: its compression is not known (gzip, xz and zstd are)")]
    Compression(String),
    /// The control archive cannot be read.
    #[error("control archive: {0}")]
    Control(io::Error),
    /// The control archive has no control file, or it is malformed.
    #[error("control file: {0}")]
    ControlFile(String),
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The control information of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// The fields of the control file; continuation lines are joined by line breaks.
    pub fields: BTreeMap<String, String>,
    /// The absolute paths of configuration files.
    pub conffiles: Vec<String>,
    /// The names of the maintainer scripts, sorted. They are never run.
    pub scripts: Vec<String>,
}

impl Control {
    /// Returns a field of the control file, or an empty string.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// An open package.
pub struct Deb<'a> {
    /// The control information.
    pub control: Control,
    /// The decompressed `data.tar`. The caller limits what it takes from it.
    pub data: Box<dyn Read + Send + 'a>,
}

impl std::fmt::Debug for Deb<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deb").field("control", &self.control).finish_non_exhaustive()
    }
}

/// Opens a package: reads its control information and goes to `data.tar`.
///
/// # Errors
/// [`DebError`].
pub fn open<'a>(reader: impl Read + Send + 'a) -> Result<Deb<'a>, DebError> {
    let mut archive = Archive::open(reader)?;
    let format = archive.expect("debian-binary", |name| name == "debian-binary")?;
    let version = archive.read_small(&format, 64)?;
    let version = String::from_utf8_lossy(&version).trim_end().to_owned();
    if !version.starts_with("2.") {
        return Err(DebError::Version(version));
    }
    let member = archive.expect("control.tar", |name| name.starts_with("control.tar"))?;
    if member.size > CONTROL_LIMIT {
        let message = format!("it is {} bytes large; the limit is {CONTROL_LIMIT}", member.size);
        return Err(DebError::Control(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    let compression = compression_of(&member, "control.tar")?;
    let compressed = archive.read_small(&member, CONTROL_LIMIT)?;
    let control = read_control(compression.decode(compressed.as_slice()).map_err(DebError::Control)?)?;
    let member = archive.expect("data.tar", |name| name.starts_with("data.tar"))?;
    let compression = compression_of(&member, "data.tar")?;
    let data = BufReader::with_capacity(1 << 16, Limited::exactly(archive.reader.take(member.size), member.size));
    Ok(Deb { control, data: compression.decode(data)? })
}

fn compression_of(member: &Member, stem: &str) -> Result<Compression, DebError> {
    let suffix = member.name.strip_prefix(stem).unwrap_or_default();
    Compression::from_suffix(suffix).ok_or_else(|| DebError::Compression(member.name.clone()))
}

/// A member's header.
#[derive(Debug)]
struct Member {
    name: String,
    size: u64,
}

/// The `ar` archive, at the start of a member header.
struct Archive<R> {
    reader: R,
    offset: u64,
}

impl<R: Read> Archive<R> {
    fn open(mut reader: R) -> Result<Self, DebError> {
        let mut magic = Vec::new();
        reader.by_ref().take(8).read_to_end(&mut magic)?;
        if magic != b"!<arch>\n" {
            return Err(DebError::NotAPackage { found: String::from_utf8_lossy(&magic).into_owned() });
        }
        Ok(Archive { reader, offset: 8 })
    }

    /// Reads the next member header; none at the end.
    fn next(&mut self) -> Result<Option<Member>, DebError> {
        let mut header = Vec::new();
        self.reader.by_ref().take(60).read_to_end(&mut header)?;
        let damaged = |cause: &str| DebError::Header { offset: self.offset, cause: cause.to_owned() };
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() < 60 {
            return Err(DebError::Truncated { place: format!("the member header at byte {}", self.offset) });
        }
        if &header[58..] != b"`\n" {
            return Err(damaged("its end mark is missing"));
        }
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim_end);
        let name = text(0..16).map_err(|_| damaged("its name is not text"))?;
        let size = text(48..58).ok().filter(|size| size.bytes().all(|byte| byte.is_ascii_digit()));
        let size = size.and_then(|size| size.parse().ok()).ok_or_else(|| damaged("its size is not a number"))?;
        // Some writers end names with a slash.
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        self.offset += 60;
        Ok(Some(Member { name, size }))
    }

    /// Reads the header of the member that must come next. "The names of members starting with an underscore are ignored"
    /// (deb(5)).
    fn expect(&mut self, expected: &'static str, is: impl Fn(&str) -> bool) -> Result<Member, DebError> {
        loop {
            match self.next()? {
                Some(member) if is(&member.name) => return Ok(member),
                Some(member) if member.name.starts_with('_') => self.skip(&member)?,
                Some(member) => return Err(DebError::Member { expected, found: member.name }),
                None => return Err(DebError::Member { expected, found: "the end".to_owned() }),
            }
        }
    }

    fn skip(&mut self, member: &Member) -> Result<(), DebError> {
        let count = io::copy(&mut self.reader.by_ref().take(member.size), &mut io::sink())?;
        self.after(member, count)
    }

    /// Reads a member whole; one larger than `limit` is refused before anything is read.
    fn read_small(&mut self, member: &Member, limit: u64) -> Result<Vec<u8>, DebError> {
        if member.size > limit {
            let cause = format!("member {} is {} bytes large; the limit is {limit}", member.name, member.size);
            return Err(DebError::Header { offset: self.offset, cause });
        }
        let mut bytes = Vec::new();
        self.reader.by_ref().take(member.size).read_to_end(&mut bytes)?;
        self.after(member, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Goes on after `count` bytes of `member`: over the padding to the next header.
    fn after(&mut self, member: &Member, count: u64) -> Result<(), DebError> {
        if count < member.size {
            return Err(DebError::Truncated { place: format!("member {}", member.name) });
        }
        let padding = member.size % 2;
        io::copy(&mut self.reader.by_ref().take(padding), &mut io::sink())?;
        self.offset += member.size + padding;
        Ok(())
    }
}

const SCRIPTS: [&str; 5] = ["config", "postinst", "postrm", "preinst", "prerm"];

fn read_control(reader: impl Read) -> Result<Control, DebError> {
    let mut archive = tar::Archive::new(Limited::at_most(reader, CONTROL_LIMIT));
    let mut control = Control::default();
    let mut found = false;
    for entry in archive.entries().map_err(DebError::Control)? {
        let mut entry = entry.map_err(DebError::Control)?;
        let path = entry.path_bytes().into_owned();
        let path = String::from_utf8_lossy(&path).into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path);
        let mut text = || {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(DebError::Control)?;
            Ok::<_, DebError>(text)
        };
        match name {
            "control" => {
                control.fields = control_fields(&text()?)?;
                found = true;
            }
            "conffiles" => control.conffiles = conffiles(&text()?),
            script if SCRIPTS.contains(&script) => control.scripts.push(script.to_owned()),
            _ => {}
        }
    }
    if !found {
        return Err(DebError::ControlFile("it is missing".to_owned()));
    }
    control.scripts.sort();
    Ok(control)
}

fn control_fields(text: &str) -> Result<BTreeMap<String, String>, DebError> {
    let paragraphs = deb822::parse(text).map_err(|error| DebError::ControlFile(error.to_string()))?;
    let [paragraph] = paragraphs.as_slice() else {
        return Err(DebError::ControlFile(format!("it has {} paragraphs instead of one", paragraphs.len())));
    };
    let value = |field: &deb822::Field<'_>| {
        let lines = std::iter::once(field.value).chain(field.lines.iter().copied());
        (field.name.to_owned(), lines.collect::<Vec<_>>().join("\n"))
    };
    Ok(paragraph.fields.iter().map(value).collect())
}

/// Returns the paths in a `conffiles` file; a flag such as `remove-on-upgrade` may stand before a path (deb-conffiles(5)).
fn conffiles(text: &str) -> Vec<String> {
    let path = |line: &str| Some(line[line.find('/')?..].trim_end().to_owned());
    let kept = |line: &&str| !line.starts_with("remove-on-upgrade");
    text.lines().filter(kept).filter_map(path).collect()
}

#[cfg(test)]
mod tests;
